"""One process as /proc shows it: what it runs, its age, its parents, its open files. Reads nothing from a home."""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "tcsh", "csh", "nu", "elvish"}
INTERPRETERS = {*SHELLS, "node", "nodejs", "bun", "deno", "python", "env"}
"""Programs that run scripts: the script, not the executable, says what runs."""
DELETED = " (deleted)"
LAUNCH_SECONDS = 30.0
"""By this age a launcher has executed or started the server."""


class Stat(NamedTuple):
    """Fields of /proc/PID/stat. `terminal` is 0 without a controlling terminal; `started` is in clock ticks since boot."""

    state: str
    parent: int
    group: int
    session: int
    terminal: int
    foreground: int
    started: int


def _read(path: str) -> bytes:
    """Return the content of a file of /proc, in a third of the time that pathlib takes: on a host of 300 users, thousands are read."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def stat_of(pid: int) -> Stat | None:
    """Return the fields of /proc/PID/stat, or None if the process is gone."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split()
        return Stat(fields[0], *(int(fields[at]) for at in (1, 2, 3, 4, 5, 19)))
    except (OSError, IndexError):
        return None


def age_seconds(pid: int) -> float | None:
    """Return the age of a process by the monotonic clock, which no clock step changes, or None if it is gone."""
    found = stat_of(pid)
    if found is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / os.sysconf("SC_CLK_TCK")


def is_past_launch(pid: int) -> bool:
    """Return whether a process is so old that a launcher would have executed or started the server by now."""
    return (age_seconds(pid) or 0.0) > LAUNCH_SECONDS


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    found = stat_of(pid)
    return found is not None and found.state not in "ZX"


def command_line(pid: int) -> list[str]:
    """Return the command line of a process; empty if it is gone."""
    try:
        return _read(f"/proc/{pid}/cmdline").decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def variable(pid: int, name: str) -> str | None:
    """Return a variable from the initial environment of a process, or None if it is unset or unreadable."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(f"{name}=".encode()):
                return entry.partition(b"=")[2].decode(errors="replace")
    return None


def name_of(pid: int) -> str:
    """Return the name of a process, with unprintable characters replaced: a process can set its own name."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/comm").read_text(errors="replace").removesuffix("\n")
        return "".join(letter if letter.isprintable() else "?" for letter in text)
    return "?"


def executable(pid: int) -> str:
    """Return the path of a process's executable, or "" if it is unreadable."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").removesuffix(DELETED)
    return ""


def program_of(pid: int) -> str:
    """Return the absolute path of a process's executable, or of the script that an interpreter runs, or "" if it is unknown.

    A relative script is unknown, and so is one behind an option that takes a separate argument: such a process never counts as the server's.
    """
    path = executable(pid)
    if not is_interpreter(path):
        return path
    script = next((word for word in command_line(pid)[1:] if not word.startswith("-")), "")
    return script if script.startswith("/") and "/../" not in script else ""


def is_interpreter(path: str) -> bool:
    """Return whether a program runs scripts, judged by its name (`python3.12` and `node22` included)."""
    return re.sub(r"[\d.]+$", "", Path(path).name) in INTERPRETERS


def ancestors(pid: int, among: Collection[int]) -> list[int]:
    """Return the ancestors of a process, nearest first, up to the first that is not in `among`."""
    found: list[int] = []
    while (stat := stat_of(found[-1] if found else pid)) is not None and stat.parent in among:
        if stat.parent in found:
            break
        found.append(stat.parent)
    return found


def open_files(pid: int) -> Iterator[str]:
    """Yield the paths of a process's open files, as the kernel names them, without touching any file. Sockets are `socket:[INODE]`."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(DELETED)


def flags_of_open_files(pid: int, matches: Callable[[str], bool]) -> Iterator[int]:
    """Yield the flags (as of open(2)) of a process's open files whose path `matches`."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if matches(os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(DELETED)):
                    flags = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().partition("flags:")[2].split()[0]
                    yield int(flags, 8)


def is_suspended(pid: int) -> bool:
    """Return whether all threads of a process are stopped: a running thread could still write."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if (task / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "TtZX":
                    return False
        return True
    return False


def uid_of(pid: int) -> int | None:
    """Return the uid of a process, or None if it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None


def describe(pids: Iterable[int]) -> str:
    """Return a list of processes for people: `node (pid 7), bash (pid 8)`."""
    return ", ".join(f"{name_of(pid)} (pid {pid})" for pid in pids)
