"""Query the registry with the npm client, and tell what it does not have from what it cannot answer now."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from t3flow.engine.step import pause
from t3flow.host.accounts import Account
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm import settings as npm_settings
from t3flow.host.npm.command import (
    CANNOT_START,
    IncompleteRelease,
    PackageError,
    ProgramMissing,
    RegistryUnreachable,
    run_with,
)
from t3flow.host.npm.messages import parse_error
from t3flow.host.npm.npmrc import config_value, write_npmrc

VIEW_SECONDS = 60.0


def version_of_tag(host: Host, tag: str) -> str:
    """Return the version of a dist-tag. Raises RegistryUnreachable after `npm.retry_for_s`, PackageError if there is no such tag.

    Raises IncompleteRelease if the tag names a version that the registry does not have yet.
    """
    package = host.settings.track.package
    answer = view(host, [f"{package}@{tag}", "version"])
    if answer is None:
        if (version := dist_tags(host).get(tag)) is not None:
            raise IncompleteRelease(f"the tag {tag} names {package}@{version}, which is not in the registry yet")
        raise PackageError(
            f"the registry has no dist-tag {tag} of {package}: check track.tag, track.package and npm's registry"
        )
    if not isinstance(answer, str):
        raise RegistryUnreachable(
            f"the answer about {package}@{tag} is not a version, so it does not come from a registry: check npm's settings"
        )
    return answer


def is_published(host: Host, version: str) -> bool:
    """Return whether the registry has exactly this version. Raises RegistryUnreachable."""
    answer = view(host, [f"{host.settings.track.package}@{version}", "version"])
    return bool(answer == version)


def view(host: Host, words: list[str], *, patiently: bool = True) -> Any:
    """Return the result of `npm view WORDS --json`; None if the registry does not have it.

    While the registry is unreachable, retries for `npm.retry_for_s`, unless not `patiently`. Raises RegistryUnreachable.
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
            finished = run_with_registry(
                host,
                ["view", *words, "--json", "--fetch-retries=0", *npm_settings.install_options(cache)],
                cache,
                timeout_seconds=min(VIEW_SECONDS, settings.timeout_s),
            )
            if finished.code == 0:
                return _json(finished, words)
            code, line = parse_error(finished)
            if code == "E404" or "E404" in line:
                return None
            if finished.code in CANNOT_START:
                raise ProgramMissing(f"{settings.command} does not run: {line}; install it again: t3flow doctor")
            raise RegistryUnreachable(f"the registry does not answer as it should: {f'{code} {line}'.strip()}")
    raise AssertionError("unreachable")


def dist_tags(host: Host) -> dict[str, str]:
    """Return the package's dist-tags from `npm dist-tag ls`; empty if npm fails. Raises RegistryUnreachable, ChildError, Interrupted."""
    words = ["dist-tag", "ls", host.settings.track.package, "--fetch-retries=0"]
    cache = _private(host)
    words += npm_settings.install_options(cache)
    finished = run_with_registry(host, words, cache, timeout_seconds=VIEW_SECONDS)
    lines = finished.stdout.decode(errors="replace").splitlines() if finished.code == 0 else []
    return {tag: version for tag, colon, version in (line.partition(": ") for line in lines) if colon}


def _json(finished: Finished, words: list[str]) -> Any:
    """Parse npm's output; npm 12 and later print a list also for a single item."""
    try:
        answer = json.loads(finished.stdout or b"null")
    except ValueError as error:
        raise RegistryUnreachable(f"npm view {words[0]} printed no JSON: {finished.last_line}") from error
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def run_with_registry(
    host: Host,
    words: list[str],
    private: Path,
    *,
    timeout_seconds: float,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run npm with those of its settings that lead to the registry, and no other; the settings and the cache are in a private folder.

    Raises as `command.run_npm`.
    """
    npmrc = write_npmrc(host, private, account)
    settings = {
        **npm_settings.environment(),
        "npm_config_userconfig": str(npmrc),
        "npm_config_globalconfig": "/dev/null",
        "npm_config_cache": str(private / "cache"),
        "npm_config_logs_dir": str(private / "logs"),
    }
    return run_with(host, words, timeout_seconds, account, {**settings, **(environment or {})})


def setting(host: Host, key: str) -> str:
    """Return the effective value of a setting that leads to the registry; "" if it is not set. Raises as `command.run_npm`."""
    words = ["config", "get", key, "--loglevel=error"]
    return config_value(run_with_registry(host, words, _private(host), timeout_seconds=VIEW_SECONDS))


def _private(host: Host) -> Path:
    """Create an empty folder for npm's settings and cache."""
    folder = host.settings.paths.state_dir / "npm-cache"
    shutil.rmtree(folder, ignore_errors=True)  # npm answers from a cache of any age if the registry does not answer
    folder.mkdir(mode=0o700)
    return folder
