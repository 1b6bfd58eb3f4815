"""A unit as systemd has loaded it: command, account, environment, drop-ins. One `systemctl show` reads the units of all users."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PROPERTIES = (
    "Id",
    "ActiveState",
    "SubState",
    "MainPID",
    "ExecMainStartTimestamp",
    "ExecMainStartTimestampMonotonic",
    "NRestarts",
    "LoadState",
    "UnitFileState",
    "Result",
    "ExecMainStatus",
    "ExecStart",
    "User",
    "Environment",
    "EnvironmentFiles",
    "FragmentPath",
    "DropInPaths",
    "KillMode",
    "ControlGroup",
    "Slice",
)
"""Older systemd, or a unit that is not loaded, lacks some of these: each is read with a default."""
_COMMAND = re.compile(r"\{ path=(.*?) ; argv\[\]=(.*?) ; (?:ignore_errors|flags)=", re.DOTALL)
_FILE = re.compile(r"(?P<path>\S.*?) \(ignore_errors=(?P<ignore>yes|no)\)")


@dataclass(frozen=True)
class UnitFacts:
    """A unit as systemd has loaded it. `commands`: each ExecStart= as one line; `user`: the account that it runs as ("" for root)."""

    unit: str
    load_state: str
    file_state: str
    user: str
    commands: tuple[str, ...]
    environment: dict[str, str]
    environment_files: tuple[tuple[Path, bool], ...]
    fragment: str
    drop_ins: tuple[str, ...]
    kill_mode: str

    @property
    def words(self) -> list[str]:
        """Return the words of the first command. systemd shows them without quotes, so a word with a blank is split."""
        return self.commands[0].split() if self.commands else []

    def option(self, name: str) -> str | None:
        """Return the value of an option of the first command (`--name VALUE` or `--name=VALUE`), or None."""
        words = self.words
        for at, word in enumerate(words):
            if word == name and at + 1 < len(words):
                return words[at + 1]
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return None


def properties(shown: str) -> dict[str, str]:
    """Return one unit's part of `systemctl show` as property → value. The values of a repeated property are joined by newlines."""
    found: dict[str, str] = {}
    for line in shown.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def facts_of(unit: str, shown: dict[str, str]) -> UnitFacts:
    """Return the facts of a unit, given its properties."""
    return UnitFacts(
        unit=unit,
        load_state=shown.get("LoadState", ""),
        file_state=shown.get("UnitFileState", ""),
        user=shown.get("User", ""),
        commands=tuple(argv for _, argv in _COMMAND.findall(shown.get("ExecStart", ""))),
        environment=_environment(shown.get("Environment", "")),
        environment_files=tuple(
            (
                Path(re.sub(r"\\(.)", r"\1", found["path"])),
                found["ignore"] == "yes",
            )  # a pattern, where a backslash escapes
            for found in _FILE.finditer(shown.get("EnvironmentFiles", ""))
        ),
        fragment=shown.get("FragmentPath", ""),
        drop_ins=tuple(shown.get("DropInPaths", "").split()),
        kill_mode=shown.get("KillMode", ""),
    )


def _environment(shown: str) -> dict[str, str]:
    """Return the assignments of `Environment=`, which systemd quotes where needed."""
    try:
        words = shlex.split(shown)
    except ValueError:
        words = shown.split()
    return dict(word.partition("=")[::2] for word in words if "=" in word)
