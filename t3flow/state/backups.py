"""Snapshots, and databases that were kept when they were replaced."""

from collections.abc import Callable
from pathlib import Path

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.host import parallel
from t3flow.host.backups import replaced
from t3flow.host.host import Host
from t3flow.host.records import catalog
from t3flow.state.documents import Backup
from t3flow.state.times import rfc3339
from t3flow.t3.files import userdata


def backups(host: Host, users: list[str], on_problem: Callable[[str], None]) -> list[Backup]:
    """Return the backups of these users, by user and time. A user whose replaced databases cannot be read is passed to `on_problem`."""

    def kept(user: str) -> list[Backup]:
        try:
            return [_kept(host, each) for each in replaced.list_replaced(host, user)]
        except T3flowError as error:
            on_problem(f"the replaced databases of {user} cannot be seen: {error}")
            return []

    found = snapshots(host.journal, users)
    found += [each for of_user in parallel.for_each(kept, users) for each in of_user]
    return sorted(found, key=lambda each: (users.index(each["user"]), each["created"] or "", each["backup"]))


def snapshots(journal: Journal, users: list[str]) -> list[Backup]:
    """Return the snapshots of these users."""
    found = []
    for entry in catalog.backups(journal):
        if entry.user not in users:
            continue
        sizes = {name: _size(each) for name, each in entry.paths.items()}
        present = [size for size in sizes.values() if size is not None]
        found.append(
            Backup(
                user=entry.user,
                backup=Path(entry.path).name,
                kind="snapshot",
                path=entry.path,
                version=entry.written_by or None,
                before=entry.version,
                level=entry.level,
                created=rfc3339(entry.created),
                bytes=sum(present) if len(present) == len(sizes) else None,
                files=sizes,
            )
        )
    return found


def _kept(host: Host, found: replaced.ReplacedSet) -> Backup:
    return Backup(
        user=found.user,
        backup=found.name,
        kind="kept",
        path=str(userdata(host.base_dir(found.user)) / found.name),
        version=found.written_by or None,
        before=None,
        level=found.level,
        created=rfc3339(found.created),
        bytes=found.size_bytes,
        files=dict(found.files),
    )


def _size(path: Path) -> int | None:
    """Return the size of a file in bytes; None for a file that is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return None
