"""`t3flow enqueue`: forced runs."""

from typing import Any

import click

from t3flow.cli import complete
from t3flow.cli.base import (
    Command,
    Commands,
    UsageError,
    as_json,
    hint,
    journal,
    known_users,
    open_host,
    require_consumer,
    settings,
)
from t3flow.cli.output import dump, say

wait = click.option("--wait", is_flag=True, help="Follow the run to its end.")
dry_run = click.option("--dry-run", is_flag=True, help="Try and report; change nothing.")


def some_users(flag: str, what: str, *name: str) -> Command:
    """An option that names users, one each time; what it is for, and (given) the name that the command knows it by."""
    meant = f"{what}; may be repeated."
    return click.option(flag, *name, metavar="USER", multiple=True, shell_complete=complete.users, help=meant)


@click.group(cls=Commands)
def enqueue() -> None:
    """Start a run now: bump, drain or rollback.

    The run is the consumer's: it goes on when this command, its terminal or its t3 session ends. The command prints the run's id;
    with --wait it follows the run and exits by its outcome.
    """


@enqueue.command()
@click.option("--target", metavar="VERSION", help="This version instead of the tag's or the pin's.")
@click.option("--again", is_flag=True, help="Also a version that was rejected before.")
@some_users("--without", "Leave this user out")
@dry_run
@wait
@as_json
def bump(target: str | None, again: bool, without: tuple[str, ...], dry_run: bool, wait: bool, as_json: bool) -> int:
    """Look for a new version and give it to everybody. Example: t3flow enqueue bump --wait

    The version is staged, every database is backed up, and the gate tries it on a copy of each. Then idle users are restarted one at a time,
    each verified through the dispatch; who is at work is deferred. If it fails in place, the user is taken back, database and program,
    tracking is frozen and the version remembered. --target may go back to an older version only within a schema level;
    beyond it, see enqueue rollback. It goes on though no user pairs before, so that a build that broke pairing can be left.

    A bump to the default moves those who do not run it. Users left out by --without are held until a drain by hand or a bump without it.

    --dry-run stages and gates, says which it would be, and leaves nothing.

    \b
    Outcomes with exit code 0: updated, up_to_date, refused_downgrade, refused_channel,
      refused_rejected, too_young, dry_run_passed
    with 1: gate_failed, gate_inconclusive, rolled_back, dry_run_failed, backup_failed,
      registry_unreachable, incomplete_release, cancelled, error
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
@some_users("--ignore-processes", "Jobs of this user's that still run do not count, and end with the server")
@dry_run
@wait
@as_json
def drain(users: tuple[str, ...], ignore_processes: tuple[str, ...], dry_run: bool, wait: bool, as_json: bool) -> int:
    """Try pending deferrals now, whatever the window; only who is idle. Example: t3flow enqueue drain ada --wait

    Of everybody, or of the USERs named. Who has a live turn, or had one less than deferral.quiet_seconds ago, is not restarted, whatever
    is asked for; they stay deferred. --dry-run says who would be moved now.

    Outcomes: updated (somebody was moved), up_to_date (nobody), dry_run_passed, rolled_back, cancelled, frozen, error.

    \b
    Example: t3flow enqueue drain ada --ignore-processes ada --wait
    """
    read = settings()
    if users and (others := set(ignore_processes) - set(users)):
        raise UsageError(
            f"--ignore-processes {min(others)}: {min(others)} is not among the users to drain: name them too"
        )
    args = {
        "users": known_users(read, users),
        "ignore_processes": known_users(read, ignore_processes),
        "dry_run": dry_run,
    }
    return begin("drain_now", args, wait, as_json)


@enqueue.command()
@click.option("--to", metavar="VERSION", help="This version instead of each user's before the last accepted bump.")
@some_users("--user", "Only this user", "users")
@wait
@as_json
def rollback(to: str | None, users: tuple[str, ...], wait: bool, as_json: bool) -> int:
    """Freeze, then take users back, at work or not. Example: t3flow enqueue rollback --user ada --wait

    Tracking is frozen when the command returns. The rollback goes before every other run: a bump, a dry run or an adoption that has the
    host ends, a deferral's drain tries again later; only a user whose server is being restarted is seen through first.

    Each user's server is stopped without asking whether they are at work, their database is kept aside in userdata/replaced-TIME, the
    snapshot that belongs to the version is put in place, the server started and verified. Where the version knows the database as it is,
    the program alone goes back. Who cannot be taken back stays as they are, with the reason. It may be asked for from inside a t3 session,
    and goes on when that ends.

    Afterwards tracking is frozen and the versions left are remembered: t3flow unfreeze.

    Outcomes: done, cancelled, error (somebody was left as they are).

    \b
    Example: t3flow enqueue rollback --to 0.0.24 --wait
    """
    from t3flow.rollout.bake import ROLLBACK_PRIORITY
    from t3flow.rollout.rollback import freeze_reason, why_not_to

    read = settings()
    args = {"users": known_users(read, users), "to": exact_version("--to", to)}
    goes = args["to"] is None or not why_not_to(open_host(read), str(args["to"]))
    if not goes:  # refused by its run, and no reason to stop one that is under way
        return begin("rollback", args, wait, as_json)
    return begin("rollback", args, wait, as_json, ROLLBACK_PRIORITY, freeze_because=freeze_reason(list(users), to))


def exact_version(option: str, text: str | None) -> str | None:
    """The version that an option names. Raises UsageError."""
    from t3flow.t3.versions import InvalidVersion, parse

    try:
        return str(parse(text)) if text is not None else None
    except InvalidVersion as error:
        raise UsageError(f"{option}: {error}") from error


def begin(
    workflow: str, args: dict[str, Any], wait: bool, as_json: bool, priority: int = 0, *, freeze_because: str = ""
) -> int:
    """Journal a run, hint at it, and follow it if asked to. Return the exit code.

    `freeze_because`: tracking is frozen, for this reason, before the run is journaled, so that the freeze holds when the command returns.
    """
    from t3flow.cli.follow import follow
    from t3flow.engine.runs import new_run

    read = settings()
    require_consumer(read)
    noted = journal(read)
    if freeze_because:
        from t3flow.host import freeze as freezing

        freezing.freeze(read, noted, freeze_because)
    run = new_run(noted, workflow, args, priority=priority)
    assert run is not None
    hint(read, run)
    if wait:
        return follow(read, noted, run, as_json)
    if as_json:
        dump({"run": run})
    else:
        click.echo(run)
        say(f"follow it with: t3flow show {run}")
    return 0
