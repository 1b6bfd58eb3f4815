"""Past and present runs: runs, show, cancel."""

import sys
from datetime import datetime

import click

from t3flow.cli import complete
from t3flow.cli.base import UsageError, as_json, desk, journal, limit, settings
from t3flow.cli.output import GAP, dump, say, styled, table, tell, wrapped
from t3flow.engine.journal import Journal
from t3flow.state import actions
from t3flow.state.runs import activity, asked_for, history, summary
from t3flow.state.short import SHORT_ID, short_id, shortened
from t3flow.state.sources import consumer_pid
from t3flow.state.times import ago, ahead, duration, when


@click.command()
@as_json
@limit
def runs(as_json: bool, limit: int) -> None:
    """List past and present runs, oldest first. Example: t3flow runs --limit 5

    Shows for each run the outcome, the start, the duration, and the reason; for a run in progress, its current step. Ids are shortened; show and
    cancel accept the short form, and --json has the full ids.
    """
    read = settings()
    noted = journal(read)
    found = noted.runs(limit=limit)
    if as_json:
        askers = actions.askers(noted)
        dump([summary(run, askers) for run in found])
        return
    if not found:
        click.echo("No run yet; start one with: t3flow enqueue bump --wait")
        return
    ids = [short_id(run.id) for run in found]
    is_alive = consumer_pid(read.paths.state_dir) is not None
    rows = []
    for run, short in zip(found, ids, strict=True):
        reason = str(run.result.get("reason", "")) or activity(noted, run, is_alive=is_alive)
        is_running = run.status == "running"
        took = "-" if is_running else duration(run.updated - run.created)
        shown = short if ids.count(short) == 1 else run.id
        rows.append([shown, run.outcome or "running", ago(run.created), took, shortened(reason)])
    table(["run", "outcome", "started", "took", "reason"], rows, is_cut=True)


@click.command()
@click.argument("run", shell_complete=complete.runs)
@as_json
def show(run: str, as_json: bool) -> None:
    """Show the history of RUN, step by step. Example: t3flow show bump-20260609T0412

    RUN is an id, the start of an id, or a short form such as bump-1fb35f, if it names only one run. Shows each step in a sentence, each trial of the
    gate with its checks and their evidence, then the outcome and the result of each user.
    """
    read = settings()
    noted = journal(read)
    found = noted.run(_full_id(noted, run))
    events = noted.events(found.id)
    if as_json:
        dump(history(found, events, actions.askers(noted)))
        return
    from t3flow.cli.follow import conclude, in_line
    from t3flow.state.runs import Narrator, verdicts_of
    from t3flow.state.wording import judged_on

    asker = actions.askers(noted).get(found.id)
    by = f" by {asker}" if asker else ""
    head = wrapped(f"started {when(found.created)}{by}{asked_for(found)}", GAP, f"{found.id}, ")
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
    is_alive = consumer_pid(read.paths.state_dir) is not None
    if found.status == "running" and is_alive and narrator.is_waiting and found.wake_at is not None:
        tell(f"Next check {ahead(found.wake_at)}")
    elif found.status == "running":
        tell(f"Now: {activity(noted, found, is_alive=is_alive)}; to follow it: t3flow watch")
    else:
        conclude(found)


@click.command()
@click.argument("run", shell_complete=complete.runs)
def cancel(run: str) -> int:
    """Stop RUN at its next safe point and undo what must be undone. Example: t3flow cancel bump-20260609T0412

    Before the first restart, the run is undone as a whole. After it, no further user is restarted and the remaining users are deferred; a restart in
    progress is finished first. RUN is an id, its start, or its short form. Exits 1 if the run has ended.
    """
    from t3flow.service import operations

    read = settings()
    try:
        tell(operations.cancel(desk(read), _full_id(journal(read), run)))
    except operations.Refused as refused:
        say(str(refused))
        return 1
    return 0


def _full_id(noted: Journal, text: str) -> str:
    """Return the id of the one run that a text names by its id, start or short form. Raises UsageError."""
    if not text:
        raise UsageError("an empty text names no run: t3flow runs lists them")
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
