"""Taking a user's server away, with all that may write to their databases."""

import time
from collections.abc import Callable
from contextlib import suppress

from t3flow import T3flowError
from t3flow.host import own_activity, slots
from t3flow.host.host import Host
from t3flow.host.processes import proc, suspension
from t3flow.t3 import files

END_SECONDS = 10.0
COMMAND_SECONDS = 5.0


class StillInUse(T3flowError):
    """Something does not let go of a database."""


def take_away(host: Host, user: str) -> None:
    """Stop a user's unit and all that has their databases open, and lead them to `hold`, so that nothing opens these. Idempotent."""
    own_activity.restarting(host.journal, user)
    slots.assign(host.settings.paths.versions_dir, user, slots.HOLD)
    host.services.stop(user)
    end_users_of_database(host, user)


def end_users_of_database(host: Host, user: str) -> None:
    """Ends what could still write: a minting under way would migrate the restored database again."""
    deadline = time.monotonic() + END_SECONDS
    is_at_work = at_work_on_state(host, user, with_files=True)
    while found := _at_work(host, user, is_at_work):
        if time.monotonic() > deadline - END_SECONDS / 2:
            for pid in found:
                suspension.end_if(pid, lambda: _at_work(host, user, is_at_work))
        if time.monotonic() > deadline:
            raise StillInUse(f"process {found[0]} does not let go of the database of {user}")
        time.sleep(0.05)


def await_commands(host: Host, user: str) -> None:
    """Lets a minting under way end: under the next version's server it would meet another schema, or its lock would stop that server's migration."""
    deadline = time.monotonic() + COMMAND_SECONDS
    is_at_work = at_work_on_state(host, user, with_files=False)
    while _at_work(host, user, is_at_work) and time.monotonic() < deadline:
        time.sleep(0.02)


def _at_work(host: Host, user: str, is_at_work: Callable[[int], bool]) -> list[int]:
    """The user's own processes that are at work on their state: of other accounts no more is looked at than that they are others'."""
    return [pid for pid in proc.of_account(host.account(user).uid) if is_at_work(pid)]


def at_work_on_state(host: Host, user: str, *, with_files: bool) -> Callable[[int], bool]:
    """Return a test of a process of the user's: whether it runs a t3 on their base dir or, `with_files`, has one of their databases open.

    Other files of the folder harm nobody: an editor or a `tail` on a log there is left alone.
    """
    who, base_dir = host.account(user), str(host.base_dir(user))
    programs = (str(host.settings.paths.launcher), f"{slots.versions(host.settings.paths.versions_dir).resolve()}/")
    folder = ""
    with suppress(OSError):
        folder = str(files.userdata(host.base_dir(user)).resolve())

    def is_state(path: str) -> bool:
        return path.rpartition("/")[0] == folder and path.endswith(files.OPEN_SUFFIXES)

    def is_at_work(pid: int) -> bool:
        words = proc.command_line(pid)
        if any(word.startswith(programs) for word in words) and (who.is_other or base_dir in words):
            return True
        if who.is_other and proc.executable(pid).startswith(programs):
            return True
        return with_files and bool(folder) and proc.works_on(pid, is_state)

    return is_at_work
