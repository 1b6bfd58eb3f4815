"""What the commands share: settings, host, consumer, errors."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from t3flow import T3flowError
from t3flow.cli.commands import Commands as Commands
from t3flow.cli.output import say
from t3flow.settings import load as settings_module
from t3flow.settings.load import Settings
from t3flow.state.sources import consumer_pid, journal_if_any, queue_url
from t3flow.state.sources import journal as journal

if TYPE_CHECKING:
    from t3flow.host.host import Host
    from t3flow.service.operations import Desk


class UsageError(T3flowError):
    """Wrong usage that only the state of the host reveals."""

    exit_code = 2


class NoConsumer(T3flowError):
    """No consumer answers."""

    exit_code = 4


MOST_LISTED = 1_000_000
"""The largest --limit of a list."""
limit = click.option(
    "--limit",
    type=click.IntRange(1, MOST_LISTED),
    default=50,
    show_default=True,
    help="List at most this many, the newest.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of this command, by its environment unless another one is given. Raises SettingsError."""
    path: str | None = click.get_current_context().find_root().params.get("config")
    return settings_module.load(Path(path) if path else None, os.environ if environ is None else environ)


def open_host(read: Settings) -> "Host":
    """Return the host, for commands that read it. Raises JournalError."""
    from t3flow.host.host import COMMANDS_LOCK, open_host

    return open_host(read, journal(read), children_lock=COMMANDS_LOCK)


def require_consumer(read: Settings) -> int:
    """Return the pid of the consumer. Raises NoConsumer; NewerJournal where a consumer of this t3flow could not start."""
    pid = consumer_pid(read.paths.state_dir)
    if pid is None:
        journal_if_any(read)
        raise NoConsumer("no consumer is running, so nothing was enqueued; start it with: systemctl start t3flow")
    return pid


def hint(read: Settings, run: str) -> None:
    """Send the consumer a hint about a journaled run. Without a queue it finds an urgent run within seconds, others when the queue is back."""
    from t3flow.engine.queue import open_queue, queue_key
    from t3flow.engine.queue_faults import fault_of
    from t3flow.host.records import facts

    noted = journal(read)
    consumer, priority = facts.read(noted, "consumer") or {}, noted.run(run).priority
    url = read.queue.url
    try:
        url = queue_url(read)
        key = queue_key(read.paths.state_dir / "queue.key")
        queue = open_queue(url, key, name=consumer.get("queue_name", ""))
        queue.register(lambda run_id: None, [])
        queue.send(run, priority=priority)
    except Exception as error:
        starts = "starts within seconds" if priority > 0 else "starts within a minute of its return"
        say(f"t3flow: the queue cannot be used: {fault_of(error, url).cause}; {run} is journaled and {starts}")


def desk(read: Settings) -> "Desk":
    """Return where this command's operation is done and recorded, in the name of the account that a person logged in with. Raises JournalError."""
    from t3flow.host.caller import calling_account
    from t3flow.host.records.actions import CLI, Actor
    from t3flow.service.operations import Desk

    return Desk(read, journal(read), Actor(CLI, calling_account()), lambda run: hint(read, run))


def known_users(read: Settings, users: tuple[str, ...]) -> list[str]:
    """Return the users named. Raises UsageError for a user who is not in the user map."""
    from t3flow.service.operations import unknown_user

    for user in users:
        if problem := unknown_user(read, user):
            raise UsageError(problem)
    return list(users)


Command = Callable[..., Any]
