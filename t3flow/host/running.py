"""Which version a user's server runs: by the slot that it was started from, or as was noted when its host was taken over."""

from pathlib import Path

from t3flow.engine.journal import Journal
from t3flow.host import records, slots

OLD_SERVERS = "old_servers"
"""Servers that still run from where the shell tracker installed: user → [pid, version]."""


def running_version(journal: Journal, versions_dir: Path, user: str, pid: int) -> str | None:
    """The version that a user's server runs, of which `pid` is the main process; None when that cannot be told (yet)."""
    version = slots.running_version(pid, versions_dir)
    if version is not None:
        return version
    noted = (records.fact(journal, OLD_SERVERS) or {}).get(user)
    return str(noted[1]) if noted and noted[0] == pid else None


def is_from_old_place(journal: Journal, versions_dir: Path, user: str, pid: int) -> bool:
    """Whether a user's server has run since before the host was taken over, so that only its next restart brings it to a slot."""
    return (
        slots.running_version(pid, versions_dir) is None
        and running_version(journal, versions_dir, user, pid) is not None
    )
