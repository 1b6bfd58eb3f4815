"""What /proc says: who runs below a server, how old it is. Only the kernel's word, nothing that a user can write."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "tcsh", "csh", "nu", "elvish"}
STOP_SECONDS = 0.3


def age_seconds(pid: int) -> float | None:
    """How long a process has lived by the monotonic clock, which no clock step moves; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def is_agent(words: list[str], comm: str, agents: tuple[str, ...]) -> bool:
    """Whether a process is a coding agent: by its name, or as the script that an interpreter runs."""
    names = {comm, *(Path(word).name for word in words[:2])}
    return bool(names & set(agents))


def is_shell_at_prompt(process: "psutil.Process") -> bool:
    """Whether it is an interactive shell that waits: on a terminal, in its foreground, with nothing below it and no script."""
    words = process.cmdline()
    if Path((words or [process.name()])[0].lstrip("-")).name not in SHELLS or any(
        not word.startswith("-") for word in words[1:]
    ):
        return False
    if any(word.startswith("-") and not word.startswith("--") and "c" in word for word in words[1:]):
        return False
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    state, group, terminal, foreground = fields[0], fields[2], fields[4], fields[5]
    return state == "S" and terminal != "0" and group == foreground and not process.children()


def of_unit(pid: int, unit: str) -> list[int]:
    """The processes in the control group of a unit, of which `pid` is the main process, or below it: also those that are nobody's children any more.

    The group is found by its path: anybody may have one of that name among their own.
    """
    group = _group(pid)
    if unit not in group:
        return []
    of_unit = group[: group.index(unit) + 1]
    return [
        int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _group(int(entry.name))[: len(of_unit)] == of_unit
    ]


def _group(pid: int) -> list[str]:
    """The names on the path of the control group that systemd has a process in; none when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "name=systemd"):
                return path.split("/")
    return []


def is_in_system_unit(pid: int, unit: str) -> bool:
    """Whether a process is in the control group of a unit of the system's: users have units, and so groups, of any name below `user.slice`."""
    group = _group(pid)
    return unit in group and "user.slice" not in group[: group.index(unit)]


def ancestors(pid: int) -> list[int]:
    """The parent of a process, that one's parent, and so on."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        while pid > 1 and pid not in found:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.append(pid)
    return found


def below(pid: int, unit: str, agents: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What a server's stop would end with it, as (agents, others that are at work): each as `NAME (pid N)`. Shells at their prompt count as neither.

    That is what runs below its main process, and all else in the control group of its unit: a job that was detached has no parent there.
    """
    found_agents, others = [], []
    import psutil  # here, as `status` needs all of this file but that

    with suppress(psutil.NoSuchProcess):
        found = {process.pid: process for process in psutil.Process(pid).children(recursive=True)}
        for other in of_unit(pid, unit):
            with suppress(psutil.NoSuchProcess):
                found.setdefault(other, psutil.Process(other))
        found.pop(pid, None)
        for process in found.values():
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                label = f"{process.name()} (pid {process.pid})"
                if is_agent(process.cmdline(), process.name(), agents):
                    found_agents.append(label)
                elif not is_shell_at_prompt(process):
                    others.append(label)
    return found_agents, others


def using(paths: list[Path], matches: Callable[[list[str]], bool]) -> list[int]:
    """Processes that have one of the files open or whose command line `matches`. This one is left out."""
    wanted = set()
    for path in paths:
        with suppress(OSError):
            status = os.stat(path)
            wanted.add((status.st_dev, status.st_ino))
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        if matches(command_line(pid)) or (wanted and _opens(entry, wanted)):
            found.append(pid)
    return found


def _opens(entry: Path, wanted: set[tuple[int, int]]) -> bool:
    with suppress(OSError):
        for descriptor in (entry / "fd").iterdir():
            with suppress(OSError):
                status = os.stat(descriptor)
                if (status.st_dev, status.st_ino) in wanted:
                    return True
    return False


@contextmanager
def paused(pid: int) -> Iterator[int]:
    """Holds a process still within the block, so that what it says meanwhile stays true; gives a pidfd to it.

    It is resumed on every way out. Raises ProcessLookupError when it is gone, TimeoutError when it cannot be stopped.
    """
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_SECONDS
        while not _all_stopped(pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} does not stop")
            time.sleep(0.002)
        yield descriptor
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        os.close(descriptor)


def _all_stopped(pid: int) -> bool:
    """Whether each thread has stopped: one that still runs could still write."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            if (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


def is_stopped(pid: int) -> bool:
    """Whether a process was paused and not resumed."""
    with suppress(OSError):
        return _all_stopped(pid)
    return False


def resume(pid: int) -> None:
    """Lets a paused process go on."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """Ends a process at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def uid_of(pid: int) -> int | None:
    """Whose process it is; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None
