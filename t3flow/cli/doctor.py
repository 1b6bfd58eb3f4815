"""`t3flow doctor`: is this host as it must be?"""

import click

from t3flow.cli.base import as_json, open_host, settings
from t3flow.cli.output import dump, say, styled, with_remedy
from t3flow.engine.journal import JournalError


@click.command()
@click.option("--fix", is_flag=True, help="Apply the remedies that stop nothing and change nothing of a user's first.")
@as_json
def doctor(fix: bool, as_json: bool) -> int:
    """Check the host and what must always hold: one line a finding, with its mend; exit 1 with findings. Example: t3flow doctor --fix

    With --fix the launcher is put back, modes are mended, accounts without a link get one, leftovers go: a line for each thing that was done
    (with --json on stderr). No server is stopped and nothing of a user's is touched. The findings are what is left then.
    """
    from t3flow.state.doctor import CHECKS, Finding, examine, remedies

    done: list[str] = []
    unmended: list[Finding] = []
    try:
        host = open_host(settings())
        if fix:
            done, unmended = remedies.fix(host)
        found = [*unmended, *examine(host)]
    except JournalError as error:
        what, _, mend = str(error).rpartition(": ")
        found = [Finding("journal", what, mend)]
    for line in done:
        (say if as_json else click.echo)(f"mended: {line}")
    if as_json:
        dump([finding._asdict() for finding in found])
    else:
        for finding in found:
            text = with_remedy(f"{finding.check}: {finding.what}", finding.mend)
            click.echo(styled(finding.check, fg="red") + text[len(finding.check) :])
        if not found:
            click.echo(f"{len(CHECKS)} checks, no finding")
    return 1 if found else 0
