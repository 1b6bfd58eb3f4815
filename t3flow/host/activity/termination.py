"""End of a user's server and of every process that may write to the databases."""

import os
import time
from collections.abc import Callable
from contextlib import suppress

from t3flow import T3flowError
from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.host.pairing import own_activity
from t3flow.host.processes import listing, proc, suspension
from t3flow.t3 import files

END_SECONDS = 10.0
COMMAND_SECONDS = 5.0


class DatabaseInUse(T3flowError):
    """A process does not close a database."""


def stop_all(host: Host, user: str) -> None:
    """Stop a user's unit and every process that uses the databases, and point the link at `hold` so that no other opens them. Idempotent."""
    own_activity.note_restart(host.journal, user)
    slots.assign(host.settings.paths.versions_dir, user, slots.RESTORING)
    host.services.stop(user)
    end_database_users(host, user)


def end_database_users(host: Host, user: str) -> None:
    """End every process that can still write: a minting in flight would migrate the restored database again. Raise DatabaseInUse."""
    deadline = time.monotonic() + END_SECONDS
    is_at_work = uses_state(host, user, with_files=True)
    while pids := _processes_at_work(host, user, is_at_work):
        if time.monotonic() > deadline - END_SECONDS / 2:
            for pid in pids:
                suspension.end_if(pid, lambda: _processes_at_work(host, user, is_at_work))
        if time.monotonic() > deadline:
            raise DatabaseInUse(f"process {pids[0]} does not close the database of {user}")
        time.sleep(0.05)


def await_commands(host: Host, user: str) -> None:
    """Wait for a minting in flight to end: it would meet the schema of the next version, or its lock would block the migration."""
    deadline = time.monotonic() + COMMAND_SECONDS
    is_at_work = uses_state(host, user, with_files=False)
    while _processes_at_work(host, user, is_at_work) and time.monotonic() < deadline:
        time.sleep(0.02)


def _processes_at_work(host: Host, user: str, is_at_work: Callable[[int], bool]) -> list[int]:
    """Return the user's own processes that use the state. Of other accounts' processes only the uid is read."""
    return [pid for pid in listing.pids_of_account(host.account(user).uid) if is_at_work(pid)]


def uses_state(host: Host, user: str, *, with_files: bool) -> Callable[[int], bool]:
    """Return a predicate of the user's pids: runs a t3 on the base dir or, `with_files`, has a database open.

    Other files in the folder do not count: an editor or a `tail` on a log there is left alone.
    """
    account, base_dir = host.account(user), str(host.base_dir(user))
    programs = (str(host.settings.paths.launcher), f"{slots.slots_dir(host.settings.paths.versions_dir).resolve()}/")
    folder = ""
    with suppress(OSError):
        folder = str(files.userdata(host.base_dir(user)).resolve())

    def is_state(path: str) -> bool:
        return path.rpartition("/")[0] == folder and path.endswith(files.OPEN_SUFFIXES)

    def is_at_work(pid: int) -> bool:
        words = proc.command_line(pid)
        if any(word.startswith(programs) for word in words) and (account.is_other or base_dir in words):
            return True
        if account.is_other and proc.executable(pid).startswith(programs):
            return True
        # a descriptor of the mere name (O_PATH) allows neither reading nor writing
        return (
            with_files
            and bool(folder)
            and any(not flags & os.O_PATH for flags in proc.flags_of_open_files(pid, is_state))
        )

    return is_at_work
