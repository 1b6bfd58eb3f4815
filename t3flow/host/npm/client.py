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

from t3flow import T3flowError
from t3flow.engine.step import pause
from t3flow.host.accounts import Account
from t3flow.host.children import Finished, TookTooLong
from t3flow.host.host import Host
from t3flow.host.npm import settings as npm_settings
from t3flow.host.npm.messages import error_of

VIEW_SECONDS = 60.0
NOT_THERE = {"E404", "ETARGET", "ENOVERSIONS"}
"""npm's codes for a package, a version or a tarball that the registry does not have."""
CANNOT_START = (126, 127)
UNREACHABLE = re.compile(
    r"E(CONN\w+|NOTFOUND|AI_AGAIN|TIMEDOUT|SOCKETTIMEOUT|HOSTUNREACH|NETUNREACH|PIPE|JSONPARSE|RR_\w+|50\d|429|INVALIDRESPONSE)"
    r"|ERR_SOCKET|network|socket hang up|Invalid response body|Unexpected token|in JSON|fetch failed|failed to download|aborted",
    re.IGNORECASE,
)


class RegistryUnreachable(T3flowError):
    """The registry does not answer, or not as a registry."""


class PackageError(T3flowError):
    """The registry answers, but the package, tag or version is not usable."""


class IncompleteRelease(T3flowError):
    """The registry names a version of which it does not have every part yet."""


class ProgramMissing(PackageError):
    """npm or Node is not there, so that nothing can be asked or installed."""


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
            cache = _private(host)
            finished = run_reaching(
                host,
                ["view", *words, "--json", "--fetch-retries=0", *npm_settings.words(cache)],
                cache,
                timeout_seconds=min(VIEW_SECONDS, settings.timeout_s),
            )
            if finished.code == 0:
                return _json(finished, words)
            code, line = error_of(finished)
            if code == "E404" or "E404" in line:
                return None
            if finished.code in CANNOT_START:
                raise ProgramMissing(f"{settings.command} does not run: {line}; install it again: t3flow doctor")
            raise RegistryUnreachable(f"the registry does not answer as it should: {f'{code} {line}'.strip()}")
    raise AssertionError("unreachable")


def dist_tags(host: Host) -> dict[str, str]:
    """The package's dist-tags, as `npm dist-tag ls` has them; none where npm cannot say. Raises RegistryUnreachable, ChildError, Interrupted."""
    words = ["dist-tag", "ls", host.settings.track.package, "--fetch-retries=0"]
    cache = _private(host)
    finished = run_reaching(host, [*words, *npm_settings.words(cache)], cache, timeout_seconds=VIEW_SECONDS)
    lines = finished.stdout.decode(errors="replace").splitlines() if finished.code == 0 else []
    return {tag: version for tag, colon, version in (line.partition(": ") for line in lines) if colon}


def _json(finished: Finished, words: list[str]) -> Any:
    """What npm printed; npm 12 and later print a list also of a single thing."""
    try:
        said = json.loads(finished.stdout or b"null")
    except ValueError as error:
        raise RegistryUnreachable(f"npm view {words[0]} printed no JSON: {finished.last_line}") from error
    return said[0] if isinstance(said, list) and len(said) == 1 else said


def run_npm(
    host: Host,
    words: list[str],
    *,
    timeout_seconds: float,
    who: Account | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """npm with its own settings: those of this process's environment and npmrc files.

    Raises RegistryUnreachable, ProgramMissing, ChildError, Interrupted.
    """
    settings = {name: value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
    return _run(host, words, timeout_seconds, who, {**settings, **(environment or {})})


def run_reaching(
    host: Host,
    words: list[str],
    private: Path,
    *,
    timeout_seconds: float,
    who: Account | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """npm with those of its settings that lead to the registry, and no other; they and its cache are in a private folder. Raises as `run_npm`."""
    npmrc = write_npmrc(host, private, who)
    settings = {
        **npm_settings.environment(),
        "npm_config_userconfig": str(npmrc),
        "npm_config_globalconfig": "/dev/null",
        "npm_config_cache": str(private / "cache"),
        "npm_config_logs_dir": str(private / "logs"),
    }
    return _run(host, words, timeout_seconds, who, {**settings, **(environment or {})})


def _run(
    host: Host, words: list[str], timeout_seconds: float, who: Account | None, settings: Mapping[str, str]
) -> Finished:
    require_programs(host)
    try:
        return host.children.run(
            [host.settings.npm.command, *words],
            account=who,
            environment={"HOME": os.environ.get("HOME", "/"), **npm_settings.QUIET, **settings},
            timeout_seconds=timeout_seconds,
        )
    except TookTooLong as error:
        raise RegistryUnreachable(f"the registry does not answer in time: {error}") from error


def require_programs(host: Host) -> None:
    """Raises ProgramMissing where npm or Node is not to be found: what npm says then is no word of the registry's."""
    command = host.settings.npm.command
    if shutil.which(command) is None:
        raise ProgramMissing(
            f"there is no {command} on PATH: install npm, or set npm.command, then: systemctl restart t3flow"
        )
    if shutil.which("node") is None:
        raise ProgramMissing("there is no node on PATH: install Node.js 24 or newer, then: systemctl restart t3flow")


def write_npmrc(host: Host, private: Path, who: Account | None = None) -> Path:
    """Writes the settings that lead to the registry into a file of the private folder, for its account alone."""
    target = private / "npmrc"
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{line}\n" for line in npm_settings.reaching(npmrc_lines(host))))
        if who is not None and who.is_other:
            os.fchown(file.fileno(), who.uid, who.gid)
    return target


def setting(host: Host, key: str) -> str:
    """One of the settings that lead to the registry, as it is in force; "" for one that is not set. Raises as `run_npm`."""
    said = run_reaching(host, ["config", "get", key, "--loglevel=error"], _private(host), timeout_seconds=VIEW_SECONDS)
    return _value(said)


def _value(finished: Finished) -> str:
    said = finished.stdout.decode(errors="replace").strip()
    return "" if finished.code != 0 or said in ("undefined", "null") else said


def _private(host: Host) -> Path:
    """A new empty folder for npm's settings and cache, where t3flow itself asks."""
    folder = host.settings.paths.state_dir / "npm-cache"
    shutil.rmtree(folder, ignore_errors=True)  # npm answers from it, however old, when the registry does not
    folder.mkdir(mode=0o700)
    return folder


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
    for path in _npmrc_files(host):
        with suppress(OSError, UnicodeDecodeError):
            lines += path.read_text().splitlines()
    return lines


_files: dict[Any, list[Path]] = {}


def _npmrc_files(host: Host) -> list[Path]:
    """Where npm's global settings and the account's own are, asked once as long as nothing changes that decides it.

    Settings with which npm does not even say that are passed over: the files are then where npm has them by default.
    """
    deciding = {name: value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
    home = os.environ.get("HOME", "/")
    key = (shutil.which(host.settings.npm.command), home, os.environ.get("PREFIX"), *sorted(deciding.items()))
    if key not in _files:

        def ask(name: str, settings: Mapping[str, str]) -> str:
            return _value(
                _run(host, ["config", "get", name, "--global=false", "--loglevel=error"], VIEW_SECONDS, None, settings)
            )

        user = ask("userconfig", deciding) or str(Path(home) / ".npmrc")
        common = ask("globalconfig", deciding) or ask("globalconfig", {"npm_config_userconfig": "/dev/null"})
        _files[key] = [Path(path) for path in (common, user) if path]
    return _files[key]
