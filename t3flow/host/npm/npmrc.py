"""npm's settings files: where they are, what they contain, and a copy with only those settings that lead to the registry."""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from t3flow.host.accounts import Account
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm import settings as npm_settings
from t3flow.host.npm.command import run_with

CONFIG_SECONDS = 60.0
_files: dict[Any, list[Path]] = {}


def write_npmrc(host: Host, private: Path, account: Account | None = None) -> Path:
    """Write the settings that lead to the registry into a file of the private folder, readable by its account alone."""
    path = private / "npmrc"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        lines = [
            *npm_settings.PATIENCE,
            *npm_settings.reaching(npmrc_lines(host)),
        ]  # a later line overrides an earlier one
        file.write("".join(f"{line}\n" for line in lines))
        if account is not None and account.is_other:
            os.fchown(file.fileno(), account.uid, account.gid)
    return path


def npmrc_lines(host: Host) -> list[str]:
    """Return the lines of npm's settings files; a later line overrides an earlier one."""
    lines = []
    for path in _npmrc_files(host):
        with suppress(OSError, UnicodeDecodeError):
            lines += path.read_text().splitlines()
    return lines


def auth_token(host: Host, registry: str) -> str:
    """Return the token that npm's settings have for a registry, which npm itself does not print, or ""."""
    place = registry.rstrip("/").partition("//")[2]
    lines = npmrc_lines(host)
    lines += [
        f"{name[len(npm_settings.PREFIX) :]}={value}"
        for name, value in os.environ.items()
        if name.lower().startswith(npm_settings.PREFIX)
    ]
    while place:
        for line in reversed(lines):
            key, _, value = line.partition("=")
            if key.strip() == f"//{place}/:_authToken":
                return re.sub(r"\$\{(\w+)\}", lambda name: os.environ.get(name[1], ""), value.strip().strip("\"'"))
        place = place.rpartition("/")[0]
    return ""


def config_value(finished: Finished) -> str:
    """Return what `npm config get` printed; "" for a setting that is not set."""
    text = finished.stdout.decode(errors="replace").strip()
    return "" if finished.code != 0 or text in ("undefined", "null") else text


def _npmrc_files(host: Host) -> list[Path]:
    """Return the paths of npm's global settings and of the account's own, cached until something changes that decides them.

    If npm cannot even tell the paths with the present settings, it is asked for its default paths.
    """
    deciding = {name: value for name, value in os.environ.items() if name.lower().startswith(npm_settings.PREFIX)}
    home = os.environ.get("HOME", "/")
    key = (shutil.which(host.settings.npm.command), home, os.environ.get("PREFIX"), *sorted(deciding.items()))
    if key not in _files:

        def config(name: str, settings: Mapping[str, str]) -> str:
            words = ["config", "get", name, "--global=false", "--loglevel=error"]
            return config_value(run_with(host, words, CONFIG_SECONDS, None, settings))

        user = config("userconfig", deciding) or str(Path(home) / ".npmrc")
        common = config("globalconfig", deciding) or config("globalconfig", {"npm_config_userconfig": "/dev/null"})
        _files[key] = [Path(path) for path in (common, user) if path]
    return _files[key]
