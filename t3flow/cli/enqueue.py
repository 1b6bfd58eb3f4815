"""`t3flow enqueue`: forced runs."""

from typing import Any

import click

from t3flow.cli.base import Commands, UsageError, as_json, hint, journal, known_users, require_consumer, say, settings

wait = click.option("--wait", is_flag=True, help="Follow the run to its end.")
dry_run = click.option("--dry-run", is_flag=True, help="Try and report; change nothing.")


@click.group(cls=Commands)
def enqueue() -> None:
    """Start a run now."""


@enqueue.command()
@click.option("--target", metavar="VERSION", help="This version instead of the tag's.")
@click.option("--again", is_flag=True, help="Even if it was rejected before.")
@click.option("--without", metavar="USER", multiple=True, help="Leave this user out.")
@dry_run
@wait
@as_json
def bump(target: str | None, again: bool, without: tuple[str, ...], dry_run: bool, wait: bool, as_json: bool) -> int:
    """Look for a new version and give it to everybody. Example: t3flow enqueue bump --wait"""
    read = settings()
    args = {
        "target": exact_version("--target", target),
        "again": again,
        "without": known_users(read, without),
        "dry_run": dry_run,
    }
    return begin("bump", args, wait, as_json)


@enqueue.command()
@click.argument("users", metavar="[USER]...", nargs=-1)
@click.option(
    "--ignore-processes", metavar="USER", multiple=True, help="Processes of this user's that still run do not count."
)
@dry_run
@wait
@as_json
def drain(users: tuple[str, ...], ignore_processes: tuple[str, ...], dry_run: bool, wait: bool, as_json: bool) -> int:
    """Try pending deferrals now, whatever the window; only who is idle. Example: t3flow enqueue drain ada --wait"""
    read = settings()
    args = {
        "users": known_users(read, users),
        "ignore_processes": known_users(read, ignore_processes),
        "dry_run": dry_run,
    }
    return begin("drain_now", args, wait, as_json)


@enqueue.command()
@click.option("--to", metavar="VERSION", help="This version instead of the one before the last accepted bump.")
@click.option("--user", "users", metavar="USER", multiple=True, help="Only this user.")
@wait
@as_json
def rollback(to: str | None, users: tuple[str, ...], wait: bool, as_json: bool) -> int:
    """Freeze, then take users back, at work or not. Example: t3flow enqueue rollback --user ada --wait"""
    from t3flow.bake import ROLLBACK_PRIORITY

    args = {"users": known_users(settings(), users), "to": exact_version("--to", to)}
    return begin("rollback", args, wait, as_json, ROLLBACK_PRIORITY)


def exact_version(option: str, text: str | None) -> str | None:
    """The version that an option names. Raises UsageError."""
    from t3flow.versions import InvalidVersion, parse

    try:
        return str(parse(text)) if text is not None else None
    except InvalidVersion as error:
        raise UsageError(f"{option}: {error}") from error


def begin(workflow: str, args: dict[str, Any], wait: bool, as_json: bool, priority: int = 0) -> int:
    """Journals a run, hints at it, and follows it if asked to. Returns the exit code."""
    from t3flow.cli.follow import follow
    from t3flow.engine.runs import new_run

    read = settings()
    require_consumer(read)
    noted = journal(read)
    run = new_run(noted, workflow, args, priority=priority)
    assert run is not None
    hint(read, run)
    if wait:
        return follow(read, noted, run, as_json)
    if as_json:
        from t3flow.cli.base import dump

        dump({"run": run})
    else:
        click.echo(run)
        say(f"follow it with: t3flow show {run}")
    return 0
