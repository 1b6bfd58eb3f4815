"""Taking a user's server away, with all that may write to their database."""

import time
from pathlib import Path

from t3flow.errors import T3flowError
from t3flow.host import backups, ours, processes, slots
from t3flow.host.host import Host

END_SECONDS = 10.0
COMMAND_SECONDS = 5.0


class StillInUse(T3flowError):
    """Something does not let go of a database."""


def take_away(host: Host, user: str) -> None:
    """Stops a user's server, with all that has the database open, and leads them to `hold`, so that nobody opens it. Repeating it does the same."""
    ours.restarting(host.journal, user)
    slots.assign(host.settings.paths.versions_dir, user, slots.HOLD)
    host.services.stop(user)
    end_users_of_database(host, user)


def end_users_of_database(host: Host, user: str) -> None:
    """Ends what could still write: a minting under way would migrate the restored database again."""
    database = backups.database_path(host, user)
    files = [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm")]
    deadline = time.monotonic() + END_SECONDS
    while found := _at_work_on_database(host, user, files):
        if time.monotonic() > deadline - END_SECONDS / 2:
            for pid in found:
                processes.kill(pid)
        if time.monotonic() > deadline:
            raise StillInUse(f"process {found[0]} does not let go of the database of {user}")
        time.sleep(0.05)


def await_commands(host: Host, user: str) -> None:
    """Lets a minting under way end: under the next version's server it would meet another schema, or its lock would stop that server's migration."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while _at_work_on_database(host, user, []) and time.monotonic() < deadline:
        time.sleep(0.02)


def _at_work_on_database(host: Host, user: str, files: list[Path]) -> list[int]:
    """The user's processes that run a t3 on their base dir, or have one of the files open."""
    who, base_dir = host.account(user), str(host.base_dir(user))
    programs = (str(host.settings.paths.launcher), f"{slots.versions(host.settings.paths.versions_dir).resolve()}/")

    def runs_t3(words: list[str]) -> bool:
        return any(word.startswith(programs) for word in words) and (who.is_other or base_dir in words)

    return [pid for pid in processes.using(files, runs_t3) if processes.uid_of(pid) == who.uid]
