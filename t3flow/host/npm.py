"""npm, the real client: what the registry offers, and an install that nothing of the registry's can use against the host.

An install has two phases. The download runs with the registry's settings and tokens but without any script; the packages' own install
scripts run after it, with neither.
"""

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
    r"|ERR_SOCKET|network|socket hang up|Invalid response body|Unexpected token|in JSON|fetch failed|aborted",
    re.IGNORECASE,
)


class RegistryUnreachable(T3flowError):
    """The registry does not answer, or not as a registry."""


class PackageError(T3flowError):
    """The registry answers, but the package, tag or version is not usable."""


def tagged(host: Host, tag: str) -> str:
    """The version that a dist-tag points at. Raises RegistryUnreachable once `npm.retry_for_s` is over, PackageError for no such tag."""
    package = host.settings.track.package
    answer = _view(host, [f"{package}@{tag}", "version"])
    if answer is None:
        raise PackageError(
            f"the registry has no dist-tag {tag} of {package}: check track.tag, track.package and npm's registry"
        )
    if not isinstance(answer, str):
        raise RegistryUnreachable(
            f"the registry's answer about {package}@{tag} is no version: it is not a registry; check npm's settings"
        )
    return answer


def published(host: Host, version: str) -> bool:
    """Whether the registry has exactly this version. Raises RegistryUnreachable."""
    answer = _view(host, [f"{host.settings.track.package}@{version}", "version"])
    return bool(answer == version)


def _view(host: Host, words: list[str]) -> Any:
    """`npm view WORDS --json`, tried again while the registry is unreachable; None for what the registry has not."""
    settings = host.settings.npm
    for attempt in Retrying(
        stop=stop_after_delay(settings.retry_for_s),
        wait=wait_exponential_jitter(initial=0.5, max=15),
        retry=retry_if_exception_type(RegistryUnreachable),
        sleep=pause,
        reraise=True,
    ):
        with attempt:
            finished = _npm(
                host,
                ["view", *words, "--json", "--fetch-retries=0"],
                timeout_seconds=min(VIEW_SECONDS, settings.timeout_s),
            )
            if finished.code == 0:
                return _json(finished, words)
            if "E404" in _error(finished):
                return None
            raise RegistryUnreachable(
                f"the registry does not answer as it should: {_error(finished)}; t3flow tries again at the next run"
            )
    raise AssertionError("unreachable")


def _json(finished: Finished, words: list[str]) -> Any:
    try:
        return json.loads(finished.stdout or b"null")
    except ValueError as error:
        raise RegistryUnreachable(f"npm view {words[0]} printed no JSON: {finished.last_line}") from error


def _error(finished: Finished) -> str:
    """What npm says went wrong, in one line."""
    with suppress(ValueError, AttributeError):
        error = json.loads(finished.stdout).get("error", {})
        return f"{error.get('code', '')} {error.get('summary', '')}".strip().splitlines()[0][:300]
    return finished.last_line


def _npm(
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


def install(host: Host, version: str, folder: Path) -> None:
    """Installs a version into an empty folder, as the unprivileged account. Raises RegistryUnreachable, PackageError, ChildError, Interrupted.

    Repeating it is harmless: whatever an earlier try left in the folder is removed first.
    """
    who = host.gate_account()
    prefix, private = folder / "prefix", folder / "private"
    for part in (prefix, private):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if who.is_other:
            os.chown(part, who.uid, who.gid)
    common = ["--prefix", str(prefix), "--global=false", "--no-save", "--loglevel=error"]
    limit = float(host.settings.npm.timeout_s)
    settings = {
        "npm_config_cache": str(private / "cache"),
        **({"HOME": str(private), **_root_settings(host, private, who)} if who.is_other else {}),
    }
    target = f"{host.settings.track.package}@{version}"
    finished = _npm(
        host,
        ["install", *common, "--ignore-scripts", "--json", target],
        timeout_seconds=limit,
        who=who,
        environment=settings,
    )
    shutil.rmtree(private, ignore_errors=True)
    if finished.code != 0:
        reason = _error(finished)
        if UNREACHABLE.search(reason):
            raise RegistryUnreachable(f"npm cannot download {target}: {reason}")
        raise PackageError(f"npm does not install {target}: {reason}")
    private.mkdir(mode=0o700)
    if who.is_other:
        os.chown(private, who.uid, who.gid)
    finished = host.children.run(
        [host.settings.npm.command, "rebuild", *common, "--offline", "--foreground-scripts"],
        who=who,
        environment={
            **QUIET,
            "HOME": str(private),
            "npm_config_cache": str(private / "cache"),
            "npm_config_userconfig": "/dev/null",
        },
        folder=prefix,
        timeout_seconds=limit,
    )
    if finished.code != 0:
        raise PackageError(f"an install script of {target} fails: {finished.last_line}")
    check_installed(host, version, prefix)


def _root_settings(host: Host, private: Path, who: Account) -> dict[str, str]:
    """Root's own npm settings, resolved by root and handed to the download in a file that goes with it."""
    text = ""
    for key in ("globalconfig", "userconfig"):
        path = Path(
            _npm(host, ["config", "get", key], timeout_seconds=VIEW_SECONDS).stdout.decode().strip() or "/dev/null"
        )
        with suppress(OSError):
            text += path.read_text() + "\n"
    target = private / "npmrc"
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        os.fchown(file.fileno(), who.uid, who.gid)
    return {"npm_config_userconfig": str(target), "npm_config_globalconfig": "/dev/null"}


def check_installed(host: Host, version: str, prefix: Path) -> None:
    """The package says the version that was asked for, and its program is there. Raises PackageError."""
    package = host.settings.track.package
    try:
        said = json.loads((prefix / "node_modules" / package / "package.json").read_text()).get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise PackageError(f"{package}@{version} installed no readable package.json: it is not tried") from error
    if said != version:
        raise PackageError(f"asked for {package}@{version}, the package says it is {said}: it is not tried")
    if not (prefix / "node_modules" / ".bin" / "t3").exists():
        raise PackageError(f"{package}@{version} brings no program t3: it is not tried")


def node_path() -> Path:
    """The Node that the gate tries candidates with, and that users then get. Raises PackageError when there is none."""
    found = shutil.which("node")
    if found is None:
        raise PackageError("there is no node on PATH: install Node.js 24 or newer and restart t3flow")
    return Path(found).resolve()
