"""Following a run: live on a terminal, plain lines when piped, ended by its outcome."""

import sys
import time
from datetime import datetime
from typing import Any

import click

from t3flow.cli.base import NoConsumer
from t3flow.cli.output import GAP, Progress, dump, styled, table, wrapped
from t3flow.engine.journal import Journal, Run
from t3flow.host.records import facts
from t3flow.settings.load import Settings
from t3flow.state.runs import LONG_SECONDS, Line, Narrator, activity, result
from t3flow.state.short import shortener
from t3flow.state.sources import QUEUE_FAULT, consumer_pid
from t3flow.state.times import duration

POLL_SECONDS = 0.1
GONE_SECONDS = 10.0
EXIT_OK = {
    *("updated", "up_to_date", "refused_downgrade", "refused_channel", "refused_rejected"),
    *("too_young", "dry_run_passed", "done"),
}
MARKS = {
    "good": ("✓", "green"),
    "problem": ("!", "yellow"),
    "failed": ("✗", "red"),
    "undone": ("↩", "yellow"),
    "waiting": ("…", "cyan"),
}


def follow(read: Settings, journal: Journal, run_id: str, as_json: bool) -> int:
    """Show what a run does as it happens, then its outcome. Return the exit code. Raises NoConsumer when it has gone for long."""
    progress = Progress(is_live=not as_json)
    seen, last_alive, waited_for = 0, time.monotonic(), None
    since, narrator = time.monotonic(), Narrator(journal.run(run_id))
    try:
        while True:
            run = journal.run(run_id)
            for event in journal.events(run_id, seen):
                seen, since = event.seq, time.monotonic()
                if (line := narrator.line(event)) and not line.is_detail:
                    before = "" if progress.is_live else f"{datetime.fromtimestamp(event.at):%H:%M:%S} "
                    progress.say(in_line(line, before))
            if run.status != "running":
                break
            if consumer_pid(read.paths.state_dir) is not None:
                last_alive = time.monotonic()
            elif time.monotonic() - last_alive > GONE_SECONDS:
                raise NoConsumer(
                    f"the consumer is gone; {run_id} is journaled and resumes when it is back: systemctl start t3flow"
                )
            waits_for = facts.read(journal, "waiting_for")
            if waits_for and waits_for != waited_for:
                fault = facts.read(journal, QUEUE_FAULT)
                cause = f" ({fault['cause']})" if fault else ""
                progress.say(
                    f"The consumer is waiting for {waits_for}{cause}; {run_id} is journaled and goes on with it: t3flow doctor"
                )
            waited_for = waits_for
            if progress.is_live:
                progress.show(_now(journal, run, narrator, time.monotonic() - since))
            time.sleep(POLL_SECONDS)
    finally:
        progress.clear()
    if as_json:
        dump(result(run))
    else:
        conclude(run)
    return exit_code(run)


def _now(journal: Journal, run: Run, narrator: Narrator, seconds: float) -> str:
    """Return what a followed run does now."""
    doing = narrator.doing if run.claim and narrator.doing else activity(journal, run)
    return f"{doing} ({duration(seconds)})" if run.claim and seconds >= LONG_SECONDS else doing


def in_line(line: Line, before: str = "", stream: Any = None) -> str:
    """Return a line of a history with its mark, after a time or an indent; for stderr unless another stream is given."""
    mark, color = MARKS[line.mood]
    text = wrapped(line.text, " " * (len(before) + 2), f"{before}{mark} ", stream or sys.stderr)
    return before + styled(mark, stream or sys.stderr, fg=color) + text[len(before) + len(mark) :]


def exit_code(run: Run) -> int:
    """Return the exit code of an ended run."""
    return 3 if run.outcome == "frozen" else 0 if run.outcome in EXIT_OK else 1


def conclude(run: Run) -> None:
    """Print the outcome for people."""
    found = run.result
    outcome, good = str(run.outcome), exit_code(run) == 0
    text = wrapped(f"{outcome}: {found.get('reason', '')}", GAP)
    click.echo(styled(outcome, fg="green" if good else "red", bold=True) + text[len(outcome) :])
    for notice in found.get("notices", []):
        click.echo(styled("notice", fg="yellow") + wrapped(f"notice: {notice}", GAP)[len("notice") :])
    users = found.get("users", {})
    if users:
        short = shortener(each["version"] for each in users.values())
        rows = [
            [
                user,
                each["result"].replace("_", " "),
                short.get(each["version"], "-"),
                duration(each["downtime_s"]) if each["downtime_s"] else "-",
                each["reason"],
            ]
            for user, each in users.items()
        ]
        table(["user", "result", "version", "away", "reason"], rows)
