"""Past and present runs: runs, show, cancel."""

import sys
from datetime import datetime
from typing import Any

import click

from t3flow.cli import complete
from t3flow.cli.base import UsageError, as_json, hint, journal, settings
from t3flow.cli.output import GAP, dump, styled, table, wrapped
from t3flow.engine.journal import Journal, Run
from t3flow.state.runs import SHORT_ID, activity, asked_for, short_id
from t3flow.state.short_versions import shortened
from t3flow.state.times import ago, duration, rfc3339, when


@click.command()
@as_json
@click.option("--limit", default=50, show_default=True, help="At most so many, the newest.")
def runs(as_json: bool, limit: int) -> None:
    """Past and present runs, oldest first. Example: t3flow runs --limit 5

    Each with its outcome, when it started, how long it took, and the reason, or what it does or waits for at this moment. Ids are shortened;
    show, cancel and --json take or give them in full.
    """
    noted = journal(settings())
    found = noted.runs(limit=limit)
    if as_json:
        dump([_document(run) for run in found])
        return
    if not found:
        click.echo("No run yet; start one with: t3flow enqueue bump --wait")
        return
    ids = [short_id(run.id) for run in found]
    rows = []
    for run, short in zip(found, ids, strict=True):
        reason = str(run.result.get("reason", "")) or sentence_of(noted, run)
        is_running = run.status == "running"
        took = "-" if is_running else duration(run.updated - run.created)
        shown = short if ids.count(short) == 1 else run.id
        rows.append([shown, run.outcome or "running", ago(run.created), took, shortened(reason)])
    table(["run", "outcome", "started", "took", "reason"], rows, is_cut=True)


def sentence_of(noted: Journal, run: Run) -> str:
    """What a run does now."""
    return activity(noted, run) if run.status == "running" else ""


@click.command()
@click.argument("run", shell_complete=complete.runs)
@as_json
def show(run: str, as_json: bool) -> None:
    """One RUN's whole history, step by step. Example: t3flow show bump-20260609T0412

    RUN is an id, the start of one, or its short form, such as bump-1fb35f, if only one run has it. Each step in a sentence, each trial of the gate
    with its checks and their evidence, then the outcome, with a line for each user.
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
    from t3flow.cli.follow import conclude, in_line
    from t3flow.state.runs import Narrator, verdicts_of
    from t3flow.state.wording import judged_on

    head = wrapped(f"started {when(found.created)}{asked_for(found)}", GAP, f"{found.id}, ")
    click.echo(styled(found.id, bold=True) + head[len(found.id) :])
    narrator, day = Narrator(found), datetime.fromtimestamp(found.created).date()
    for event in events:
        at = datetime.fromtimestamp(event.at)
        line = narrator.line(event)
        if line is None:
            continue
        if at.date() != day:
            click.echo(f"{GAP}{at:%A %Y-%m-%d}")
            day = at.date()
        click.echo(in_line(line, f"{GAP}{at:%H:%M:%S} ", sys.stdout))
        for verdict in verdicts_of(event):
            click.echo(wrapped(judged_on(verdict), " " * 15, " " * 13))
            for check in verdict["checks"]:
                mark = styled("✓", fg="green") if check["ok"] else styled("✗", fg="red")
                text = wrapped(f"{check['name']}: {check['evidence']}", " " * 17, " " * 15 + "✓ ")
                click.echo(text.replace("✓", mark, 1))
    if found.status == "running":
        click.echo(wrapped(activity(noted, found)))
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


def _full_id(noted: Journal, text: str) -> str:
    """The id of the one run that a text means: the id, its start, or its short form. Raises UsageError."""
    rows = noted.query("select id from runs where id = ? or substr(id, 1, ?) = ?", text, len(text), text)
    found = [str(row[0]) for row in rows]
    if text in found:
        return text
    if not found and (parts := SHORT_ID.fullmatch(text)):
        rows = noted.query(
            "select id from runs where id like ? escape '!'", f"{parts[1].replace('_', '!_')}-%-{parts[2]}"
        )
        found = [str(row[0]) for row in rows]
    if len(found) == 1:
        return found[0]
    raise UsageError(f"{len(found) or 'no'} runs match {text}: t3flow runs lists them")


def _document(run: Run) -> dict[str, Any]:
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
