"""What systemd says a user's unit is: its command, account, environment, drop-ins. One `systemctl show` tells of all users."""

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
"""Some of these are missing in older systemd, or for a unit that is not loaded: each is looked up with a default."""
_COMMAND = re.compile(r"\{ path=(.*?) ; argv\[\]=(.*?) ; (?:ignore_errors|flags)=", re.DOTALL)
_FILE = re.compile(r"(?P<path>\S.*?) \(ignore_errors=(?P<ignore>yes|no)\)")


@dataclass(frozen=True)
class UnitFacts:
    """A unit, as systemd has loaded it. `commands`: each ExecStart=, as one line; `user`: the account that it runs as, "" for root."""

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
        """The words of the first command. systemd shows them without quotes, so that one with a blank in it falls apart."""
        return self.commands[0].split() if self.commands else []

    def option(self, name: str) -> str | None:
        """The value of an option of the first command, `--name VALUE` or `--name=VALUE`; None without it."""
        words = self.words
        for at, word in enumerate(words):
            if word == name and at + 1 < len(words):
                return words[at + 1]
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return None


def properties(shown: str) -> dict[str, str]:
    """What one unit's part of `systemctl show` says: property → value; a property that comes several times has its values in lines."""
    found: dict[str, str] = {}
    for line in shown.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def facts_of(unit: str, shown: dict[str, str]) -> UnitFacts:
    """The facts of a unit, by its properties."""
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
    """Assignments, which systemd quotes where that is needed."""
    try:
        words = shlex.split(shown)
    except ValueError:
        words = shown.split()
    return dict(word.partition("=")[::2] for word in words if "=" in word)
