"""Asking with npm, the real client: what the registry says, told apart from what it cannot say now."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from t3flow.engine.step import pause
from t3flow.errors import T3flowError
from t3flow.host.accounts import Account
from t3flow.host.children import Finished, TookTooLong
from t3flow.host.host import Host

VIEW_SECONDS = 60.0
QUIET = {
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
    "NO_COLOR": "1",
}
UNREACHABLE = re.compile(
    r"E(CONN\w+|NOTFOUND|AI_AGAIN|TIMEDOUT|SOCKETTIMEOUT|HOSTUNREACH|NETUNREACH|PIPE|JSONPARSE|RR_\w+|50\d|429|INVALIDRESPONSE)"
    r"|ERR_SOCKET|network|socket hang up|Invalid response body|Unexpected token|in JSON|fetch failed|failed to download|aborted",
    re.IGNORECASE,
)


class RegistryUnreachable(T3flowError):
    """The registry does not answer, or not as a registry."""


class PackageError(T3flowError):
    """The registry answers, but the package, tag or version is not usable."""


def view(host: Host, words: list[str], *, patiently: bool = True) -> Any:
    """`npm view WORDS --json`; None for what the registry has not.

    Tried again for `npm.retry_for_s` while the registry is unreachable, unless not `patiently`. Raises RegistryUnreachable.
    """
    settings = host.settings.npm
    for attempt in Retrying(
        stop=stop_after_delay(settings.retry_for_s if patiently else 0),
        wait=wait_exponential_jitter(multiplier=0.5, max=15),
        retry=retry_if_exception_type(RegistryUnreachable),
        sleep=pause,
        reraise=True,
    ):
        with attempt:
            cache = host.settings.paths.state_dir / "npm-cache"
            shutil.rmtree(cache, ignore_errors=True)  # npm answers from it, however old, when the registry does not
            finished = run_npm(
                host,
                ["view", *words, "--json", "--fetch-retries=0"],
                timeout_seconds=min(VIEW_SECONDS, settings.timeout_s),
                environment={"npm_config_cache": str(cache)},
            )
            if finished.code == 0:
                return _json(finished, words)
            if "E404" in error_line(finished):
                return None
            raise RegistryUnreachable(
                f"the registry does not answer as it should: {error_line(finished)}; t3flow tries again at the next run"
            )
    raise AssertionError("unreachable")


def _json(finished: Finished, words: list[str]) -> Any:
    try:
        return json.loads(finished.stdout or b"null")
    except ValueError as error:
        raise RegistryUnreachable(f"npm view {words[0]} printed no JSON: {finished.last_line}") from error


def error_line(finished: Finished) -> str:
    """What npm says went wrong, in one line."""
    with suppress(ValueError, AttributeError):
        error = json.loads(finished.stdout).get("error", {})
        return f"{error.get('code', '')} {error.get('summary', '')}".strip().splitlines()[0][:300]
    return finished.last_line


def run_npm(
    host: Host,
    words: list[str],
    *,
    timeout_seconds: float,
    who: Account | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """npm with its own settings: those of this process's environment and npmrc files. Raises RegistryUnreachable, ChildError, Interrupted."""
    settings = {name: value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
    home = {"HOME": os.environ.get("HOME", "/")}
    try:
        return host.children.run(
            [host.settings.npm.command, *words],
            who=who,
            environment={**home, **settings, **QUIET, **(environment or {})},
            timeout_seconds=timeout_seconds,
        )
    except TookTooLong as error:
        raise RegistryUnreachable(
            f"the registry does not answer in time: {error}; t3flow tries again at the next run"
        ) from error


def setting(host: Host, key: str) -> str:
    """One of npm's settings as it is in force; "" for one that is not set. Raises RegistryUnreachable, ChildError, Interrupted."""
    said = run_npm(host, ["config", "get", key], timeout_seconds=VIEW_SECONDS).stdout.decode(errors="replace").strip()
    return "" if said in ("undefined", "null") else said


def auth_token(host: Host, registry: str) -> str:
    """The token that npm's settings have for a registry, which npm itself does not print; "" for none."""
    place = registry.rstrip("/").partition("//")[2]
    lines = npmrc_lines(host)
    lines += [f"{name[11:]}={value}" for name, value in os.environ.items() if name.lower().startswith("npm_config_")]
    while place:
        for line in reversed(lines):
            key, _, value = line.partition("=")
            if key.strip() == f"//{place}/:_authToken":
                return re.sub(r"\$\{(\w+)\}", lambda name: os.environ.get(name[1], ""), value.strip().strip("\"'"))
        place = place.rpartition("/")[0]
    return ""


def npmrc_lines(host: Host) -> list[str]:
    """The lines of the files that npm takes its settings from; where two say the same, the later one holds."""
    lines = []
    for key in ("globalconfig", "userconfig"):
        with suppress(OSError, UnicodeDecodeError):
            lines += Path(setting(host, key) or "/dev/null").read_text().splitlines()
    return lines
