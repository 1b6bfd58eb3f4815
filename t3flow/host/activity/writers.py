"""Which file of a user's state changed since a snapshot, and which processes can write it: tells people why a user's restart waits."""

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from t3flow.host.host import Host
from t3flow.host.owner.answers import one_line
from t3flow.host.processes import listing, proc
from t3flow.host.services.manager import ServerState
from t3flow.t3 import files

MAX_NAMED = 3


def describe_last_write(
    host: Host, user: str, server: ServerState, before: dict[str, Any] | None, after: dict[str, Any]
) -> str:
    """Describe the last write: file, time, processes. `before` and `after` are the fingerprints of a snapshot and of the present state."""
    changed = [name for name, marks in after.items() if (before or {}).get(name) != marks]
    if not changed:
        return "a file was removed after the snapshot"
    last = max(changed, key=lambda name: after[name][2])
    ago = max(0.0, time.time() - after[last][2] / 1e9)
    database = last.removesuffix(files.LOG_SUFFIXES[0])
    return f"last change: {last}, {ago:.0f} s ago, {_describe_writers(host, user, server, database)}"


def _describe_writers(host: Host, user: str, server: ServerState, database: str) -> str:
    """Describe the user's processes that have a database or its log open for writing."""
    unit = host.services.pids_of(user, server)
    wanted = {f"{database}{suffix}" for suffix in ("", *files.LOG_SUFFIXES)}
    others = [pid for pid in listing.pids_of_account(host.account(user).uid) if pid not in unit]
    inside = [pid for pid in unit if _is_writer(pid, wanted)]
    outside = [pid for pid in others if _is_writer(pid, wanted, str(host.base_dir(user)))]
    found = [f"{_describe_process(pid)} of {server.unit}" for pid in inside]
    found += [f"{_describe_process(pid)}, outside {server.unit}" for pid in outside]
    if not found:
        return "by a process that has closed it"
    return "open for writing by " + "; ".join(found[:MAX_NAMED]) + ("; …" if len(found) > MAX_NAMED else "")


def _describe_process(pid: int) -> str:
    """Return `PROGRAM (pid N)`. The executable is named, since Node's threads rename the process. Its name may have any bytes."""
    return f"{one_line(Path(proc.executable(pid)).name) or proc.name_of(pid)} (pid {pid})"


def _is_writer(pid: int, names: Collection[str], below: str = "") -> bool:
    """Return whether a process has one of these files open for writing, in a state folder below that path."""

    def matches(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in names and folder.endswith(f"/{files.USERDATA}") and path.startswith(below)

    return any(flags & os.O_ACCMODE != os.O_RDONLY for flags in proc.flags_of_open_files(pid, matches))
