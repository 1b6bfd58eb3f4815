"""`t3flow doctor`: check the host."""

import click

from t3flow.cli.base import as_json, open_host, settings
from t3flow.cli.output import dump, say, styled, tell, with_remedy
from t3flow.engine.journal import JournalError


@click.command()
@click.option(
    "--fix", is_flag=True, help="First apply the remedies that stop no server and change nothing of a user's."
)
@as_json
def doctor(fix: bool, as_json: bool) -> int:
    """Check the host and the invariants of t3flow. Example: t3flow doctor --fix

    Prints each finding with its remedy, and exits 1 if there is one. With --fix, first reinstalls the launcher, corrects modes, links accounts that
    have no link, and removes leftovers; it prints each change (with --json on stderr), stops no server, and changes nothing of a user's. The
    findings are what is left afterwards.
    """
    from t3flow.state.doctor import CHECKS, Finding, examine, remedies

    done: list[str] = []
    unfixed: list[Finding] = []
    try:
        host = open_host(settings())
        if fix:
            done, unfixed = remedies.fix(host)
        found = [*unfixed, *examine(host)]
    except JournalError as error:
        problem, _, remedy = str(error).rpartition("; ")
        found = [Finding("journal", problem, remedy)]
    for line in done:
        (say if as_json else tell)(f"fixed: {line}")
    if as_json:
        dump([finding._asdict() for finding in found])
    else:
        for finding in found:
            text = with_remedy(f"{finding.check}: {finding.problem}", finding.remedy)
            click.echo(styled(finding.check, fg="red") + text[len(finding.check) :])
        if not found:
            click.echo(f"{len(CHECKS)} checks, no finding")
    return 1 if found else 0
