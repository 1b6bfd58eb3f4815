"""Past and present runs: runs, show, cancel."""

from typing import Any

import click

from t3flow.cli import complete
from t3flow.cli.base import UsageError, as_json, dump, hint, journal, rfc3339, settings, span, styled, table, when


@click.command()
@as_json
@click.option("--limit", default=50, show_default=True, help="At most so many, the newest.")
def runs(as_json: bool, limit: int) -> None:
    """Past and present runs, oldest first. Example: t3flow runs --limit 5

    Each with its outcome, or what it waits for, when it began, how long it took, and the reason in one line.
    """
    found = journal(settings()).runs(limit=limit)
    if as_json:
        dump([_document(run) for run in found])
        return
    rows = []
    for run in found:
        took = span(run.updated - run.created)
        rows.append(
            [run.id, run.outcome or _state(run), when(run.created), took, shorten(str(run.result.get("reason", "")))]
        )
    table(["run", "outcome", "begun", "took", "reason"], rows)


@click.command()
@click.argument("run", shell_complete=complete.runs)
@as_json
def show(run: str, as_json: bool) -> None:
    """One RUN's whole history, step by step. Example: t3flow show bump-20260609T0412

    The start of an id will do, if only one run has it. Each step with its result, each trial of the gate with its checks and their evidence,
    then the outcome, with a line for each user.
    """
    noted = journal(settings())
    found = noted.run(_full_id(noted, run))
    events = noted.events(found.id)
    if as_json:
        shown = [
            {"seq": e.seq, "at": rfc3339(e.at), "kind": e.kind, "step": e.step, "attempt": e.attempt, "data": e.data}
            for e in events
        ]
        dump({**_document(found), "events": shown})
        return
    from t3flow.cli.follow import conclude, event_line, judged, verdicts_of

    click.echo(f"{styled(found.id, bold=True)}  begun {when(found.created)}  {found.args}")
    for event in events:
        line = event_line(event) or (f"… waits: {event.data['waiting_for']}" if event.kind == "waiting" else "")
        if line:
            click.echo(f"  {event.at - found.created:8.2f} s  {line}")
        for verdict in verdicts_of(event):
            click.echo(f"              {verdict['version']} on {verdict['seed']}: {judged(verdict)}")
            for check in verdict["checks"]:
                click.echo(f"                {'ok ' if check['ok'] else 'BAD'} {check['name']}: {check['evidence']}")
    if found.status == "running":
        click.echo(_state(found))
    else:
        conclude(found)


@click.command()
@click.argument("run", shell_complete=complete.runs)
def cancel(run: str) -> int:
    """Stop RUN at its next safe point, undoing what it must. Example: t3flow cancel bump-20260609T0412

    Before the first restart everything is undone; after it nobody further is restarted, and who was still to come is deferred. A user whose
    server is stopped just now is seen through first. The start of an id will do. Exits 1 if the run has ended already.
    """
    from t3flow.engine.runs import send_signal

    read = settings()
    noted = journal(read)
    found = noted.run(_full_id(noted, run))
    if found.status != "running":
        click.echo(f"{found.id} has ended: {found.outcome}", err=True)
        return 1
    send_signal(noted, found.id, "cancel")
    hint(read, found.id)
    click.echo(f"{found.id} is asked to stop at its next safe point; see t3flow show {found.id}")
    return 0


def shorten(text: str) -> str:
    """At most 80 characters of a text; `t3flow show` has the rest."""
    return text if len(text) <= 80 else f"{text[:79]}…"


def _state(run: Any) -> str:
    if run.held:
        return f"held: {run.held}"
    if run.wake_at is None:
        return "waits for the host"
    return "running" if run.claim else f"sleeps until {when(run.wake_at)}"


def _full_id(noted: Any, start: str) -> str:
    found = [
        row[0]
        for row in noted.query("select id from runs where id = ? or substr(id, 1, ?) = ?", start, len(start), start)
    ]
    if start in found or len(found) == 1:
        return start if start in found else str(found[0])
    raise UsageError(f"{len(found) or 'no'} runs begin with {start}: t3flow runs lists them")


def _document(run: Any) -> dict[str, Any]:
    return {
        "run": run.id,
        "workflow": run.workflow,
        "args": run.args,
        "status": run.status,
        "outcome": run.outcome,
        "reason": run.result.get("reason", ""),
        "created": rfc3339(run.created),
        "updated": rfc3339(run.updated),
    }
