"""The version that a process runs: by the slot that it was started from, or as recorded by the adoption of the host."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from t3flow.engine.journal import Journal
from t3flow.host import slots
from t3flow.host.processes import listing, proc
from t3flow.host.records import facts
from t3flow.t3.commands import SERVE

TRACKER_SERVERS = "old_servers"
"""Fact: servers that still run from where the shell tracker installed: user → [pid, version]."""
MAX_ANCESTORS = 16
"""How many launchers and wrappers above a server are read."""


def of_server(journal: Journal, versions_dir: Path, user: str, pid: int, pids: Collection[int] = ()) -> str | None:
    """Return the version that a user's server runs, or None if it is not known (yet).

    `pid` is the process that listens, or the main process of the unit; `pids` are the others of the unit, one of which may be a server that does not
    listen yet. A launcher or wrapper above the server counts like the server.
    """
    version = in_slot(_chain(pid), versions_dir)
    if version is not None:
        return version
    noted = (facts.read(journal, TRACKER_SERVERS) or {}).get(user)
    if noted and noted[0] in _chain(pid):
        return str(noted[1])
    found = {in_slot([each], versions_dir) for each in pids if SERVE[0] in proc.command_line(each)} - {None}
    return found.pop() if len(found) == 1 else None


def is_from_shell_tracker(journal: Journal, versions_dir: Path, user: str, pid: int) -> bool:
    """Return whether a user's server has run since before the adoption: its next restart moves it to a slot."""
    noted = (facts.read(journal, TRACKER_SERVERS) or {}).get(user)
    chain = chain_of(pid)
    return noted is not None and noted[0] in chain and in_slot(chain, versions_dir) is None


def chain_of(pid: int) -> list[int]:
    """Return a process and its ancestors, nearest first."""
    return list(_chain(pid))


def _chain(pid: int) -> Iterator[int]:
    """Yield them, so that no more is read than needed."""
    yield pid
    for _ in range(MAX_ANCESTORS - 1):
        if (stat := proc.stat_of(pid)) is None or stat.parent <= 1:
            return
        pid = stat.parent
        yield pid


def in_slot(pids: Iterable[int], versions_dir: Path) -> str | None:
    """Return the version whose slot one of these processes runs from, by command line or executable; the first match counts."""
    prefix = _prefix(versions_dir)
    return next((version for pid in pids for version in _versions(_paths(pid), prefix)), None)


def of_process(pid: int, versions_dir: Path) -> str | None:
    """Return the version whose slot a process was started from, by its command line, or None."""
    return next(_versions(proc.command_line(pid), _prefix(versions_dir)), None)


def all_running(versions_dir: Path) -> dict[str, int]:
    """Return all versions whose slots appear in a command line or as an executable: version → one such pid. Walks /proc once."""
    prefix = _prefix(versions_dir)
    found: dict[str, int] = {}
    for pid in listing.other_pids():
        for version in _versions(_paths(pid), prefix):
            found.setdefault(version, pid)
    return found


def _prefix(versions_dir: Path) -> str:
    return f"{os.path.realpath(slots.slots_dir(versions_dir))}/"


def _paths(pid: int) -> Iterator[str]:
    yield from proc.command_line(pid)
    yield proc.executable(pid)


def _versions(paths: Iterable[str], prefix: str) -> Iterator[str]:
    return (path[len(prefix) :].partition("/")[0] for path in paths if path.startswith(prefix))
