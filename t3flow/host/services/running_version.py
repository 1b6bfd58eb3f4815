"""Which version a user's server runs: by the slot that it was started from, or as was noted when its host was taken over."""

from collections.abc import Collection
from pathlib import Path

from t3flow.engine.journal import Journal
from t3flow.host import slots
from t3flow.host.processes import proc
from t3flow.host.records import facts
from t3flow.t3.commands import SERVE

OLD_SERVERS = "old_servers"
"""Servers that still run from where the shell tracker installed: user → [pid, version]."""
HIGHEST = 16
"""Launchers and wrappers above a server are looked at so far."""


def running_version(
    journal: Journal, versions_dir: Path, user: str, pid: int, pids: Collection[int] = ()
) -> str | None:
    """Return the version that a user's server runs; None when that cannot be told (yet).

    `pid` is the process that listens, or the unit's main one; `pids` are the others of the unit, of which one may be the server that does not
    listen yet. A launcher or a wrapper above the server counts like the server itself.
    """
    chain = chain_of(pid)
    version = in_slot(chain, versions_dir)
    if version is not None:
        return version
    noted = (facts.read(journal, OLD_SERVERS) or {}).get(user)
    if noted and noted[0] in chain:
        return str(noted[1])
    found = {in_slot([each], versions_dir) for each in pids if SERVE[0] in proc.command_line(each)} - {None}
    return found.pop() if len(found) == 1 else None


def is_from_old_place(journal: Journal, versions_dir: Path, user: str, pid: int) -> bool:
    """Whether a user's server has run since before the host was taken over, so that only its next restart brings it to a slot."""
    noted = (facts.read(journal, OLD_SERVERS) or {}).get(user)
    chain = chain_of(pid)
    return noted is not None and noted[0] in chain and in_slot(chain, versions_dir) is None


def chain_of(pid: int) -> list[int]:
    """Return a process and its parents, nearest first."""
    found = [pid]
    while len(found) < HIGHEST and (stat := proc.stat_of(found[-1])) is not None and stat.parent > 1:
        found.append(stat.parent)
    return found


def in_slot(pids: Collection[int], versions_dir: Path) -> str | None:
    """Return the version whose slot the first of these processes runs from, by its command line or its executable."""
    prefix = f"{slots.versions(versions_dir).resolve()}/"
    for pid in pids:
        for word in (*proc.command_line(pid), proc.executable(pid)):
            if word.startswith(prefix):
                return word[len(prefix) :].partition("/")[0]
    return None
