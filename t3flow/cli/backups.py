"""`t3flow backups`, `t3flow backups drop` and `t3flow restore`: snapshots and replaced databases."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from t3flow import T3flowError
from t3flow.cli import complete
from t3flow.cli.base import Commands, UsageError, as_json, desk, known_users, open_host, settings
from t3flow.cli.enqueue import begin, wait
from t3flow.cli.output import dump, say, table, tell
from t3flow.state.short import short_backup, shortener
from t3flow.state.times import ago, epoch

if TYPE_CHECKING:
    from t3flow.host.host import Host


class ListedOrDropped(Commands):
    """The group `backups`: without a command it lists."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a word that is no command for a user."""
        if args and args[0] not in self.commands:
            return "list", self.commands["list"], args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Add `list` where no command is given."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ListedOrDropped)
def backups() -> None:
    """List the snapshots and replaced databases of USER, or of all users; drop one."""


@backups.command("list")
@click.argument("user", required=False, shell_complete=complete.users)
@as_json
def list_backups(user: str | None, as_json: bool) -> None:
    """List snapshots and databases that were kept when replaced. Example: t3flow backups ada

    A snapshot is listed by the time in its name; drop and restore accept that form. --json has full names, schema levels and sizes.
    """
    from t3flow.state.backups import backups as collect

    read = settings()
    host = open_host(read)
    users = known_users(read, (user,)) if user is not None else [entry.name for entry in host.user_map().users]
    found = collect(host, users, lambda problem: say(f"t3flow: {problem}"))
    if as_json:
        dump(found)
        return
    if not found:
        click.echo(f"No backup of {user}" if user else "No backup yet")
        return
    short = shortener(each["version"] for each in found)
    headings = [*(() if user else ("user",)), "backup", "version", "taken", "size", *(("databases",) if user else ())]
    rows = [
        [
            *(() if user else (each["user"],)),
            short_backup(each["backup"]),
            short.get(each["version"] or "", "-"),
            ago(epoch(each["created"])),
            _in_megabytes(each["bytes"]),
            *((_databases(each["files"]),) if user else ()),
        ]
        for each in found
    ]
    table(headings, rows)
    missing = [f"{each['backup']}: {name}" for each in found for name, size in each["files"].items() if size is None]
    for line in missing:
        click.echo(f"missing: {line}")


def full_name(found: list[str], backup: str) -> str:
    """Return the backup that a name or short form means; a name that none has is returned as it is."""
    return next((name for name in found if backup in (name, short_backup(name))), backup)


def _databases(files: dict[str, int | None]) -> str:
    """Return the names of the databases of a set."""
    from t3flow.t3.files import IDENTITY_FILES

    return ", ".join(name for name in files if name not in IDENTITY_FILES) or "-"


def _in_megabytes(size: int | None) -> str:
    """Return a size for people."""
    return "MISSING" if size is None else f"{size / 1e6:.1f} MB"


@backups.command()
@click.argument("user", shell_complete=complete.users)
@click.argument("backup")
@click.option("--force", is_flag=True, help="Drop it even if it is younger than 14 days, or the last of its version.")
def drop(user: str, backup: str, force: bool) -> None:
    """Delete one BACKUP of USER. Example: t3flow backups drop ada replaced-20260609T041500Z"""
    read = settings()
    known_users(read, (user,))
    host = open_host(read)
    if busy := host.journal.query("select run from locks"):
        raise T3flowError(
            f"{busy[0][0]} is changing the host and may need the backup: wait until the run has ended; see t3flow show"
        )
    given = {"user": user, "backup": backup}
    tell(desk(read).once("backups drop", given, lambda entry: _drop(host, user, backup, force=force)))


def _drop(host: "Host", user: str, backup: str, *, force: bool) -> str:
    """Delete one backup of a user, by its full or short name. Raises T3flowError."""
    from t3flow.host import pruning
    from t3flow.host.backups import replaced
    from t3flow.host.backups import store as snapshots
    from t3flow.host.records import catalog

    theirs = catalog.backups(host.journal, user)
    backup = full_name([Path(entry.path).name for entry in theirs], backup)
    snapshot = next((entry for entry in theirs if Path(entry.path).name == backup), None)
    aside = replaced.find(host, user, backup) if snapshot is None and backup.startswith(replaced.PREFIX) else None
    if snapshot is not None:
        for run, version in pruning.versions_in_progress(host.journal).items():
            if version == snapshot.version:
                raise T3flowError(
                    f"{run} is in progress and needs {backup}: wait until it has ended, or run t3flow cancel {run}, then drop it again"
                )
        others = [entry for entry in theirs if entry.path != snapshot.path and entry.written_by == snapshot.written_by]
        if not force and not any(entry.exists for entry in others):
            raise T3flowError(
                f"{backup} is the last snapshot of {user} by {snapshot.written_by or 'an earlier version'}; without it, no rollback to that "
                "version is possible; to drop it anyway, add --force"
            )
        snapshots.drop(host, snapshot)
    elif aside is not None:
        replaced.drop(host, aside, force=force)
    else:
        raise UsageError(f"{user} has no backup {backup!r}: t3flow backups {shlex.quote(user)} lists them")
    return f"Removed the backup {backup} of {user}"


@click.command()
@click.argument("user", shell_complete=complete.users)
@click.argument("backup")
@wait
@as_json
def restore(user: str, backup: str, wait: bool, as_json: bool) -> int:
    """Restore one BACKUP of USER with the version it belongs to. Example: t3flow restore ada NAME --wait

    Keeps the present database. Freezes tracking first, as a rollback does, and does not ask whether USER is busy. `t3flow backups USER` lists the
    names.
    """
    from t3flow.host.records import catalog
    from t3flow.rollout.bake import ROLLBACK_PRIORITY
    from t3flow.rollout.restore import RestoreError, find_backup, freeze_reason

    read = settings()
    known_users(read, (user,))
    host = open_host(read)
    backup = full_name([Path(entry.path).name for entry in catalog.backups(host.journal, user)], backup)
    try:
        find_backup(host, user, backup)
    except RestoreError as error:
        raise UsageError(str(error)) from error
    args = {"user": user, "backup": backup}
    return begin("restore", args, wait, as_json, ROLLBACK_PRIORITY, freeze_because=freeze_reason(user, backup))
