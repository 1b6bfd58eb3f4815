"""`t3flow actions`: who asked for what."""

import click

from t3flow.cli.base import as_json, journal, limit, settings
from t3flow.cli.output import dump, table
from t3flow.state.times import ago, epoch


@click.command()
@as_json
@limit
def actions(as_json: bool, limit: int) -> None:
    """List what people asked t3flow to do, the newest first. Example: t3flow actions --limit 5

    Shows for each action who asked (the account that logged in, or on the page the identity), for what, and how it ended. An action without a
    result is under way or was interrupted.
    """
    from t3flow.state.actions import in_short, recent

    found = recent(journal(settings()), limit)
    if as_json:
        dump(found)
        return
    if not found:
        click.echo("No action yet")
        return
    rows = [[ago(epoch(each["at"])), each["by"], each["via"], in_short(each), each["result"] or "-"] for each in found]
    table(["when", "who", "via", "action", "result"], rows, is_cut=True)
