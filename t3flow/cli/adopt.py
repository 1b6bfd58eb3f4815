"""`t3flow adopt`: take over a host from the shell tracker, or return it."""

import click

from t3flow.cli.base import as_json
from t3flow.cli.enqueue import begin


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what adopt would do; change nothing.")
@click.option("--undo", is_flag=True, help="Return the host to the shell tracker: launcher, timers, markers.")
@as_json
def adopt(dry_run: bool, undo: bool, as_json: bool) -> int:
    """Take over the host from the shell tracker without stopping a server. Example: t3flow adopt --dry-run

    May be repeated. The consumer executes it as a run and must be running; an interrupted run resumes.
    """
    return begin("adopt", {"dry_run": dry_run, "undo": undo}, True, as_json)
