"""`t3flow enqueue`: start runs now."""

from typing import Any

import click

from t3flow.cli import complete
from t3flow.cli.base import (
    Command,
    Commands,
    UsageError,
    as_json,
    desk,
    journal,
    known_users,
    open_host,
    require_consumer,
    settings,
)
from t3flow.cli.output import dump, say

wait = click.option("--wait", is_flag=True, help="Follow the run until it ends.")
dry_run = click.option("--dry-run", is_flag=True, help="Try and report, but change nothing.")


def some_users(flag: str, what: str, *name: str) -> Command:
    """Return an option that names one user each time; `what` is its help, `name` the name of its parameter where that differs."""
    meant = f"{what}. Repeatable."
    return click.option(flag, *name, metavar="USER", multiple=True, shell_complete=complete.users, help=meant)


@click.group(cls=Commands)
def enqueue() -> None:
    """Start a run now: bump, drain or rollback.

    The consumer executes the run, so it continues when this command, its terminal, or its t3 session ends. The command prints the run's id; with
    --wait it follows the run and exits by its outcome.
    """


@enqueue.command()
@click.option("--target", metavar="VERSION", help="Move to this version instead of the tag's or the pin's.")
@click.option("--again", is_flag=True, help="Try a version that was rejected before.")
@some_users("--without", "Leave this user out")
@dry_run
@wait
@as_json
def bump(target: str | None, again: bool, without: tuple[str, ...], dry_run: bool, wait: bool, as_json: bool) -> int:
    """Move all users to a new version. Example: t3flow enqueue bump --wait

    Stages the version, backs up every database, and tries the version on a copy of each. Then restarts idle users one at a time and verifies each
    through the dispatch; busy users are deferred. If the version fails for a user, that user is rolled back, database and program, tracking is
    frozen, and the version is rejected. --target may name an older version only within a schema level; to go back further, use enqueue rollback.
    A bump with --target continues even if no user can pair, so that a build that broke pairing can be replaced.

    A bump to the default version moves the users who do not run it. Users left out with --without wait until they are drained by hand or a later
    bump includes them.

    --dry-run stages and gates the version, reports the result, and removes everything again.

    \b
    Outcomes with exit code 0: updated, up_to_date, refused_downgrade, refused_channel,
      refused_rejected, too_young, dry_run_passed
    with 1: gate_failed, gate_inconclusive, rolled_back, dry_run_failed, backup_failed,
      registry_unreachable, incomplete_release, fleet_wait, cancelled, error
    with 3: frozen

    \b
    Example: t3flow enqueue bump --target 0.0.25-nightly.20260609.501 --without ada --wait --json
    """
    read = settings()
    args = {
        "target": exact_version("--target", target),
        "again": again,
        "without": known_users(read, without),
        "dry_run": dry_run,
    }
    return begin("bump", args, wait, as_json)


@enqueue.command()
@click.argument("users", metavar="[USER]...", nargs=-1, shell_complete=complete.users)
@some_users("--ignore-processes", "Ignore processes that this user left running; they end with the server")
@dry_run
@wait
@as_json
def drain(users: tuple[str, ...], ignore_processes: tuple[str, ...], dry_run: bool, wait: bool, as_json: bool) -> int:
    """Try pending deferrals now, outside the window too. Example: t3flow enqueue drain ada --wait

    All deferred users, or each USER named. Only idle users are restarted: a user with a live turn, or one that ended less than
    deferral.quiet_seconds ago, stays deferred whatever the options. --dry-run reports who would be restarted now.

    Outcomes: updated (at least one user was restarted), up_to_date (no user was), dry_run_passed, rolled_back, cancelled, frozen, error.

    \b
    Example: t3flow enqueue drain ada --ignore-processes ada --wait
    """
    read = settings()
    if users and (others := set(ignore_processes) - set(users)):
        raise UsageError(
            f"--ignore-processes {min(others)}: {min(others)} is not among the users to drain; name the user there too"
        )
    args = {
        "users": known_users(read, users),
        "ignore_processes": known_users(read, ignore_processes),
        "dry_run": dry_run,
    }
    return begin("drain_now", args, wait, as_json)


@enqueue.command()
@click.option(
    "--to",
    metavar="VERSION",
    help="Go back to this version instead of each user's version before the last accepted bump.",
)
@some_users("--user", "Roll back only this user", "users")
@wait
@as_json
def rollback(to: str | None, users: tuple[str, ...], wait: bool, as_json: bool) -> int:
    """Freeze tracking and roll users back, busy or idle. Example: t3flow enqueue rollback --user ada --wait

    Tracking is frozen when the command returns. The rollback precedes every other run: a bump, dry run or adoption in progress ends, and a drain
    tries again later; a restart in progress is finished first.

    Each server is stopped without asking whether its user is busy. The present database is kept in userdata/replaced-TIME, the snapshot that
    belongs to the older version is put in place, and the server is started and verified. If the older version knows the present database, only the
    program goes back. If a user cannot be rolled back, that user keeps the present version and the run reports why. You may run this from inside a
    t3 session; it continues when the session ends.

    Afterwards tracking stays frozen and the versions left are rejected. To resume: t3flow unfreeze.

    Outcomes: done, cancelled, error (a user could not be rolled back).

    \b
    Example: t3flow enqueue rollback --to 0.0.24 --wait
    """
    from t3flow.rollout.rollback import why_not_to
    from t3flow.service import operations

    read = settings()
    named, version = known_users(read, users), exact_version("--to", to)
    require_consumer(read)
    run = operations.rollback(desk(read), named, version, lambda version: why_not_to(open_host(read), version))
    return shown(run, wait, as_json)


def exact_version(option: str, text: str | None) -> str | None:
    """Return the version that an option names; None without one. Raises UsageError."""
    from t3flow.t3.versions import InvalidVersion, parse

    try:
        return str(parse(text)) if text is not None else None
    except InvalidVersion as error:
        raise UsageError(f"{option}: {error}") from error


def begin(
    workflow: str, args: dict[str, Any], wait: bool, as_json: bool, priority: int = 0, *, freeze_because: str = ""
) -> int:
    """Journal a run, send a hint, and follow the run if asked to. Return the exit code.

    `freeze_because`: freeze tracking for this reason before the run is journaled, so that the freeze holds when the command returns.
    """
    from t3flow.service import operations

    read = settings()
    require_consumer(read)
    run = operations.start_run(desk(read), workflow, args, priority=priority, freeze_because=freeze_because)
    return shown(run, wait, as_json)


def shown(run: str, wait: bool, as_json: bool) -> int:
    """Follow a run that was just started if asked to, else print its id. Return the exit code."""
    from t3flow.cli.follow import follow

    if wait:
        read = settings()
        return follow(read, journal(read), run, as_json)
    if as_json:
        dump({"run": run})
    else:
        click.echo(run)
        say(f"follow it with: t3flow show {run}")
    return 0
