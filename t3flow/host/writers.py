"""What of a user's state was written to since a snapshot, and which processes have it open for writing: for people, to be told why a user waits."""

import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from t3flow.host.host import Host
from t3flow.host.processes import proc
from t3flow.host.services.manager import ServerState
from t3flow.t3 import files

MOST_NAMED = 3


def told(host: Host, user: str, server: ServerState, before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    """Return the file that was written to last, when, and by what. `before` and `after` are the marks of a snapshot and of the state now."""
    changed = [name for name, marks in after.items() if (before or {}).get(name) != marks]
    if not changed:
        return "a file was removed since the snapshot"
    last = max(changed, key=lambda name: after[name][2])
    ago = max(0.0, time.time() - after[last][2] / 1e9)
    database = last.removesuffix(files.LOG_SUFFIXES[0])
    return f"last change: {last}, {ago:.0f} s ago, {_writers(host, user, server, database)}"


def _writers(host: Host, user: str, server: ServerState, database: str) -> str:
    """Return the processes of a user that have a database or its log open for writing."""
    unit = host.services.pids_of(user, server)
    wanted = {f"{database}{suffix}" for suffix in ("", *files.LOG_SUFFIXES)}
    others = [pid for pid in proc.of_account(host.account(user).uid) if pid not in unit]
    inside = [pid for pid in unit if _writes(pid, wanted)]
    outside = [pid for pid in others if _writes(pid, wanted, str(host.base_dir(user)))]
    found = [f"{_named(pid)} of {server.unit}" for pid in inside]
    found += [f"{_named(pid)}, not of {server.unit}" for pid in outside]
    if not found:
        return "by a process that has it open no more"
    return "open for writing by " + "; ".join(found[:MOST_NAMED]) + ("; …" if len(found) > MOST_NAMED else "")


def _named(pid: int) -> str:
    """A process by its program: threads of Node rename it."""
    return f"{Path(proc.executable(pid)).name or proc.name_of(pid)} (pid {pid})"


def _writes(pid: int, names: Collection[str], below: str = "") -> bool:
    """Return whether a process has a file of one of these names, in a folder of a state `below` a path, open for writing."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                folder, _, name = path.rpartition("/")
                if name in names and folder.endswith(f"/{files.USERDATA}") and path.startswith(below):
                    flags = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().partition("flags:")[2].split()[0]
                    if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
    return False
