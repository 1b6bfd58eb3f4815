"""Lists of processes: of an account, in containers, of a session, of the whole host. Each walks /proc once."""

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from t3flow.host.processes.proc import command_line, is_alive, stat_of


def pids_of_account(uid: int) -> list[int]:
    """Return the processes of an account except this one. Reads only the uid of the others."""
    return pids_by_account().get(uid, [])


def pids_by_account() -> dict[int, list[int]]:
    """Return the processes of all accounts except this one: uid → pids. One walk of /proc serves any number of accounts."""
    found: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    found.setdefault(entry.stat(follow_symlinks=False).st_uid, []).append(int(entry.name))
    return found


def in_containers(pids: Collection[int]) -> list[int]:
    """Return the processes that run in a foreign container: in a PID namespace below this one, and in the same user namespace.

    This excludes descendants of this process (cells) and namespaces that an account made for itself, which need a user namespace of their own.
    """
    spaces, accounts = _namespaces(os.getpid())
    return [
        pid
        for pid in pids
        if (found := _namespaces(pid))[0] > spaces and found[1] == accounts
        if is_alive(pid) and not _is_below(pid, os.getpid())
    ]


def _namespaces(pid: int) -> tuple[int, str]:
    """Return the depth of a process's PID namespace, seen from here, and its uid map; (0, "") if it is gone."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        return len(numbers), Path(f"/proc/{pid}/uid_map").read_text()
    return 0, ""


def _is_below(pid: int, ancestor: int) -> bool:
    while (stat := stat_of(pid)) is not None and stat.parent:
        if stat.parent == ancestor:
            return True
        pid = stat.parent
    return False


class SharedWalk:
    """A walk of /proc that is shared by checks of one user after another: at most one in `seconds`.

    A new process may be missing for that long. Thread-safe: at worst two threads walk at once.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: tuple[float, dict[int, list[int]]] | None = None

    def by_account(self) -> dict[int, list[int]]:
        """Return uid → pids."""
        last = self._last
        if last is None or time.monotonic() - last[0] > self._seconds:
            last = self._last = (time.monotonic(), pids_by_account())
        return last[1]


def session_pids(pid: int) -> list[int]:
    """Return a process, the others of its session, and all their descendants. Reads every process of the host; for the sandbox."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := stat_of(int(name)))}
    found = [each for each, stat in stats.items() if stat.session == pid or each == pid]
    for parent in found:  # grows while it is read
        found += [each for each, stat in stats.items() if stat.parent == parent and each not in found]
    return [each for each in found if stats[each].state not in "ZX"]


def other_pids() -> list[int]:
    """Return every process of the host except this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def matching_pids(matches: Callable[[list[str]], bool]) -> list[int]:
    """Return the processes whose command line `matches`, except this one."""
    return [pid for pid in other_pids() if matches(command_line(pid))]
