"""What /proc says of processes: what they run, how old they are, which of them are at work. Only the kernel's word, nothing of a home's."""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "tcsh", "csh", "nu", "elvish"}
INTERPRETERS = {*SHELLS, "node", "nodejs", "bun", "deno", "python", "env"}
"""Programs that say nothing of what runs: the script that they were given does."""
DELETED = " (deleted)"
LAUNCH_SECONDS = 30.0
"""By then a launcher has become the server that it leads to, or has started it."""


class Stat(NamedTuple):
    """What /proc/PID/stat says. `terminal` is 0 without a controlling terminal; `started` is in ticks since the boot."""

    state: str
    parent: int
    group: int
    session: int
    terminal: int
    foreground: int
    started: int


def stat_of(pid: int) -> Stat | None:
    """Return the kernel's line about a process, or None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Stat(fields[0], *(int(fields[at]) for at in (1, 2, 3, 4, 5, 19)))
    except (OSError, IndexError):
        return None


def age_seconds(pid: int) -> float | None:
    """Return how long a process has lived by the monotonic clock, which no clock step moves; None when it is gone."""
    found = stat_of(pid)
    if found is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / os.sysconf("SC_CLK_TCK")


def is_past_launch(pid: int) -> bool:
    """Whether a process is so old that a launcher would have become the server that it leads to, or have started it."""
    return (age_seconds(pid) or 0.0) > LAUNCH_SECONDS


def is_alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    found = stat_of(pid)
    return found is not None and found.state not in "ZX"


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def variable(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was started with; None without it, or where that cannot be seen."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(f"{name}=".encode()):
                return entry.partition(b"=")[2].decode(errors="replace")
    return None


def name_of(pid: int) -> str:
    """Return the name of a process, which it may have chosen itself, in printable letters."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/comm").read_text(errors="replace").removesuffix("\n")
        return "".join(letter if letter.isprintable() else "?" for letter in text)
    return "?"


def executable(pid: int) -> str:
    """Return the path of the file that a process executes; "" when that cannot be seen."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").removesuffix(DELETED)
    return ""


def program_of(pid: int) -> str:
    """Return the path of what a process runs: its executable, or the script that an interpreter was given; "" for a relative or hidden one.

    An option before the script that takes a word of its own hides it: the process then counts as unknown, not as the server's.
    """
    path = executable(pid)
    if not is_interpreter(path):
        return path
    script = next((word for word in command_line(pid)[1:] if not word.startswith("-")), "")
    return script if script.startswith("/") and "/../" not in script else ""


def is_interpreter(path: str) -> bool:
    """Whether a program runs scripts, by its name: `python3.12` and `node22` too."""
    return re.sub(r"[\d.]+$", "", Path(path).name) in INTERPRETERS


def ancestors(pid: int, among: Collection[int]) -> list[int]:
    """Return the parents of a process as far as they are among others, nearest first."""
    found: list[int] = []
    while (stat := stat_of(found[-1] if found else pid)) is not None and stat.parent in among:
        if stat.parent in found:
            break
        found.append(stat.parent)
    return found


def open_files(pid: int) -> Iterator[str]:
    """Return the paths of the files that a process has open, by the kernel's names for them: no file is touched. Sockets are `socket:[INODE]`."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(DELETED)


def can_access(pid: int, is_meant: Callable[[str], bool]) -> bool:
    """Return whether a process can read or write a file that `is_meant` picks by its path: a descriptor of the mere name (O_PATH) cannot."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if is_meant(os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(DELETED)):
                    flags = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().partition("flags:")[2].split()[0]
                    if not int(flags, 8) & os.O_PATH:
                        return True
    return False


def is_suspended(pid: int) -> bool:
    """Return whether each thread of a process has stopped: one that still runs could still write."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if (task / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "TtZX":
                    return False
        return True
    return False


def uid_of(pid: int) -> int | None:
    """Whose process it is; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None


def describe(pids: Iterable[int]) -> str:
    """Return processes for people, as `node (pid 7), bash (pid 8)`."""
    return ", ".join(f"{name_of(pid)} (pid {pid})" for pid in pids)
