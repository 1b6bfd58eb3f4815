"""`t3flow adopt`: taking over a host that ran the earlier shell tracker, and giving it back."""

import click

from t3flow.cli.base import as_json
from t3flow.cli.enqueue import begin


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option("--undo", is_flag=True, help="Give the host back as it was: launcher, timers, markers.")
@as_json
def adopt(dry_run: bool, undo: bool, as_json: bool) -> int:
    """Take over from the shell tracker, without stopping a server. Can be repeated. Example: t3flow adopt --dry-run

    It is a run of the consumer's, which must be up: one run changes the host at a time, and one that is cut off goes on.
    """
    return begin("adopt", {"dry_run": dry_run, "undo": undo}, True, as_json)
