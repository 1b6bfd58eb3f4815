"""What the commands share: settings, journal, times for people, JSON."""

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t3flow import T3flowError
from t3flow.settings import load as settings_module
from t3flow.settings.load import Settings

if TYPE_CHECKING:
    from t3flow.engine.journal import Journal
    from t3flow.host.host import Host

JOURNAL = "journal.db"


class UsageError(T3flowError):
    """Wrong usage that only the host's state shows."""

    exit_code = 2


class NoConsumer(T3flowError):
    """No consumer answers."""

    exit_code = 4


class Commands(click.Group):
    """A group whose commands are listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, as added."""
        return list(self.commands)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def settings() -> Settings:
    """The settings that this call reads. Raises SettingsError."""
    path: str | None = click.get_current_context().find_root().params.get("config")
    return settings_module.load(Path(path) if path else None, os.environ)


def journal(read: Settings) -> "Journal":
    """The journal of this host. Raises JournalError."""
    from t3flow.engine.journal import Journal

    return Journal(read.paths.state_dir / JOURNAL)


def open_host(read: Settings) -> "Host":
    """The host, for commands that look at it."""
    from t3flow.host.host import COMMANDS_LOCK, open_host

    return open_host(read, journal(read), children_lock=COMMANDS_LOCK)


def require_consumer(read: Settings) -> int:
    """The consumer's pid. Raises NoConsumer."""
    pid = consumer_pid(read.paths.state_dir)
    if pid is None:
        raise NoConsumer(
            "no consumer runs, so nothing was enqueued; start it: systemctl start t3flow (or: t3flow consumer)"
        )
    return pid


def consumer_pid(state_dir: Path) -> int | None:
    """The pid of the consumer that holds its lock, or None."""
    import fcntl

    try:
        with (state_dir / "consumer.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        pass
    return None


def hint(read: Settings, run: str) -> None:
    """Tell the consumer at once of a run that is journaled. Without a queue it finds an urgent one within seconds, others once the queue is back."""
    from t3flow.engine.queue import open_queue, queue_key
    from t3flow.host.records import facts

    noted = journal(read)
    consumer, priority = facts.read(noted, "consumer") or {}, noted.run(run).priority
    try:
        key = queue_key(read.paths.state_dir / "queue.key")
        queue = open_queue(consumer.get("queue_url", read.queue.url), key, name=consumer.get("queue_name", ""))
        queue.register(lambda run_id: None, [])
        queue.send(run, priority=priority)
    except Exception as error:
        starts = "starts within seconds" if priority > 0 else "starts within a minute of its return"
        say(f"t3flow: the queue does not answer ({error}); {run} is journaled and {starts}")


def known_users(read: Settings, users: tuple[str, ...]) -> list[str]:
    """The users named. Raises UsageError for one that the user map does not have."""
    if not users:
        return []
    from t3flow.settings.user_map import read_user_map

    known = [entry.name for entry in read_user_map(read.paths.user_map).users]
    for user in users:
        if user not in known:
            some = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
            raise UsageError(f"{user!r} is no user of {read.paths.user_map}; it has: {some or 'nobody'}")
    return list(users)


def dump(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A line for people beside the output."""
    click.echo(text, err=True)


def rfc3339(moment: float | None) -> str | None:
    """A time for scripts."""
    return (
        datetime.fromtimestamp(moment, UTC).astimezone().isoformat(timespec="milliseconds")
        if moment is not None
        else None
    )


def when(moment: float | None) -> str:
    """A time for people: the clock, and how far away it is."""
    if moment is None:
        return "-"
    away = moment - time.time()
    local = datetime.fromtimestamp(moment)
    day = "" if local.date() == datetime.now().date() else f"{local:%Y-%m-%d} "
    return f"{day}{local:%H:%M:%S} ({f'in {span(away)}' if away > 0 else f'{span(-away)} ago'})"


def span(seconds: float) -> str:
    """A length of time for people."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def table(headings: list[str], rows: list[list[str]]) -> None:
    """A plain table on stdout."""
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    for number, row in enumerate([headings, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 and colour() else line)


def colour() -> bool:
    """Whether stdout takes colour."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def styled(text: str, **style: Any) -> str:
    """Text with a style where stdout takes one."""
    return click.style(text, **style) if colour() else text


Command = Callable[..., Any]
