"""`t3flow doctor`: is this host as it must be?"""

import click

from t3flow.cli.base import as_json, dump, open_host, settings, styled
from t3flow.engine.journal import JournalError


@click.command()
@as_json
def doctor(as_json: bool) -> int:
    """Check the host and what must always hold: one line a finding, with its mend; exit 1 with findings. Example: t3flow doctor --json"""
    from t3flow.doctor import CHECKS, Finding, examine

    try:
        found = examine(open_host(settings()))
    except JournalError as error:
        what, _, mend = str(error).rpartition(": ")
        found = [Finding("journal", what, mend)]
    if as_json:
        dump([finding._asdict() for finding in found])
    else:
        for finding in found:
            click.echo(f"{styled(finding.check, fg='red')}: {finding.what}; {finding.mend}")
        if not found:
            click.echo(f"{len(CHECKS)} checks, no finding")
    return 1 if found else 0
