"""`t3flow hold`, `release`: keep one user on their version."""

import click

from t3flow.cli import complete
from t3flow.cli.base import desk, settings
from t3flow.cli.output import tell


@click.command()
@click.argument("user", shell_complete=complete.users)
@click.option(
    "--until", metavar="DATE", help="End the hold by itself: 2026-12-24 (its first moment), or a date with a time."
)
@click.option("--reason", default="", help="Shown by status and in results.")
def hold(user: str, until: str | None, reason: str) -> None:
    """Keep USER on their version. Example: t3flow hold ada --until 2026-12-24 --reason "a talk"

    Until released, or until DATE: bumps, drains, and a rollback of all users skip USER and say so. The gate does not try a new version on the
    databases of USER; the drain that moves USER after the hold does. A rollback or restore that names USER moves USER. To hold a user again
    changes date and reason. DATE is in the time zone of the schedule.
    """
    from t3flow.service import operations

    tell(operations.hold(desk(settings()), user, until, reason))


@click.command()
@click.argument("user", shell_complete=complete.users)
def release(user: str) -> None:
    """End the hold of USER. Example: t3flow release ada

    A pending deferral of USER is checked at once.
    """
    from t3flow.service import operations

    tell(operations.release(desk(settings()), user))
