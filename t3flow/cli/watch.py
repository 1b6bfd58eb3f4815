"""The live view of the host and its current run: `t3flow watch`."""

import os
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from t3flow.cli import view
from t3flow.cli.base import as_json, settings
from t3flow.cli.follow import exit_code, in_line
from t3flow.cli.output import GAP, dump, styled, wrapped
from t3flow.cli.screen import Screen
from t3flow.engine.journal import Journal, Run
from t3flow.engine.reader import ReadOnlyJournal
from t3flow.settings.load import Settings
from t3flow.state import host
from t3flow.state.documents import Status
from t3flow.state.observed import Observed, observe
from t3flow.state.problems import identity
from t3flow.state.problems import line as problem_line
from t3flow.state.runs import LONG_SECONDS, Narrator, activity
from t3flow.state.short import short_id
from t3flow.state.sources import journal_if_any
from t3flow.state.text import clean
from t3flow.state.times import ago, duration

POLL_SECONDS = 0.5
LOOK_SECONDS, LOOK_SHARE = 5.0, 0.02
"""How often servers are looked at, and the largest share of the time that this may take."""
SHOWN_SECONDS = 900.0
"""How long a run that has ended is shown."""
MOST_KEPT = 200
LEAST_USERS = 4
"""How many lines of the table of users are shown however little room there is."""


class Watcher:
    """Reads the host again and again; servers are looked at less often, as that asks the service manager."""

    def __init__(self, read: Settings) -> None:
        self._read = read
        self._observed: Observed | None = None
        self._look_at = 0.0

    def collect(self) -> Status:
        """Return the state of the host now. Raise JournalError, PermissionError."""
        noted = journal_if_any(self._read)
        if noted is not None and isinstance(noted, ReadOnlyJournal):
            return host.collect(self._read)
        began = time.monotonic()
        if self._observed is None or began >= self._look_at:
            self._observed = observe(self._read, noted)
            took = time.monotonic() - began
            self._look_at = began + max(LOOK_SECONDS, took / LOOK_SHARE)
        return host.collect(self._read, observed=self._observed)


class RunTail:
    """The run to show, and the last lines of its history: the one that has the host, else one under way, else one that ended lately."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._lines: deque[str] = deque(maxlen=MOST_KEPT)
        self._seen, self._at = 0, 0.0
        self._narrator: Narrator | None = None

    def update(self, noted: Journal | None, current: str | None) -> None:
        """Read what has happened since the last call."""
        chosen = self._choose(noted, current) if noted is not None else None
        if chosen is None or noted is None:
            self.run = None
            return
        if self.run is None or chosen != self.run.id:
            self._lines.clear()
            self._seen, self._narrator = 0, Narrator(noted.run(chosen))
        self.run = noted.run(chosen)
        for event in noted.events(chosen, self._seen):
            self._seen, self._at = event.seq, event.at
            if self._narrator and (told := self._narrator.line(event)) and not told.is_detail:
                at = datetime.fromtimestamp(event.at)
                self._lines += in_line(told, f"{GAP}{at:%H:%M:%S} ", sys.stdout).splitlines()

    def _choose(self, noted: Journal, current: str | None) -> str | None:
        rows = noted.query("select run from locks limit 1")
        if rows or current:
            return str(rows[0][0]) if rows else current
        ended = noted.runs("status != 'running' and updated > ?", time.time() - SHOWN_SECONDS, limit=1)
        return ended[-1].id if ended else None

    def lines(self, noted: Journal | None, room: int, *, is_alive: bool) -> list[str]:
        """Return the run, its last lines, and what it does now or how it ended, in at most `room` lines."""
        run = self.run
        if run is None or noted is None or room < 2:
            return []
        if run.status != "running":
            color = "green" if exit_code(run) == 0 else "red"
            text = wrapped(
                f"{run.outcome} {ago(run.updated)}: {run.result.get('reason', '')}", GAP, f"{short_id(run.id)}: "
            )
            head = [styled(each, fg=color) for each in text.splitlines()]
            return [*head, *list(self._lines)[-max(0, room - len(head)) :]][:room]
        now = self._now(noted, run, is_alive=is_alive)
        last = wrapped(now, GAP * 2, f"{GAP}now ").splitlines()
        before = list(self._lines)[len(self._lines) - max(0, room - 1 - len(last)) :] if room > 1 + len(last) else []
        return [styled(run.id, bold=True), *before, *(styled(each, fg="cyan") for each in last)][:room]

    def _now(self, noted: Journal, run: Run, *, is_alive: bool) -> str:
        """Return what the run does or waits for."""
        doing = self._narrator.doing if is_alive and run.claim and self._narrator else ""
        took = time.time() - self._at
        return (
            (f"{doing} ({duration(took)})" if took >= LONG_SECONDS else doing)
            if doing
            else activity(noted, run, is_alive=is_alive)
        )


def frame(found: Status, tail: RunTail, noted: Journal | None, rows: int) -> list[str]:
    """Return the lines of one picture: problems, host, run and users, each shortened so that all have a place."""
    title = f"t3flow on {clean(socket.gethostname())}, {datetime.now():%H:%M}; to end: q"
    summary = view.summary_lines({**found, "run_doing": None})  # which the run's own lines say
    users = view.users_lines(found, is_cut=True) if found["users"] else []
    room = max(0, rows - 1 - len(summary))
    problems = _shortened(view.problem_lines(found), max(2, room // 2), "see t3flow status")
    room -= len(problems)
    wanted = min(len(users), max(LEAST_USERS, room // 2)) + 1
    story = tail.lines(noted, max(0, room - wanted - 1), is_alive=found["consumer"]["alive"])
    room -= len(story) + 1 if story else 0
    table = _shortened(users, room - 1, "see t3flow status")
    parts = [
        [styled(title, bold=True)],
        problems,
        summary,
        ["", *story] if story else [],
        ["", *table] if table else [],
    ]
    return [each for part in parts for each in part]


def _shortened(lines: list[str], room: int, rest: str) -> list[str]:
    """Return as many lines as there is room for; the last says how many are left out."""
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], f"… and {len(lines) - room + 1} more lines; {rest}"] if room > 1 else []


@click.command()
@as_json
def watch(as_json: bool) -> None:
    """Show the host and its current run, live. Example: t3flow watch

    Shows what status shows, and the steps of the run under way as they happen. The key q and Ctrl-C end it, which changes nothing.

    In a pipe, prints one line for each change: a problem that begins or ends, and each step of each run. With --json, prints the document of
    status --json in one line after each change.
    """
    read = settings()
    with suppress(KeyboardInterrupt):
        if as_json:
            _print_documents(read)
        elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            _show(read)
        else:
            _print_changes(read)


def _show(read: Settings) -> None:
    """Draw the host until the user ends it. An error ends the view before it is reported."""
    os.environ.pop("COLUMNS", None)  # the terminal's own size counts, which changes
    watcher, tail = Watcher(read), RunTail()
    with Screen() as screen:
        while True:
            found, noted = watcher.collect(), journal_if_any(read)
            tail.update(noted, found["run"])
            screen.draw(frame(found, tail, noted, screen.rows))
            if not screen.wait(POLL_SECONDS):
                return


def _print_documents(read: Settings) -> None:
    watcher, before = Watcher(read), None
    while True:
        found: Any = watcher.collect()
        if (now := {**found, "observed": None}) != before:
            before = now
            dump(found, indent=None)
            sys.stdout.flush()
        time.sleep(POLL_SECONDS)


def _print_changes(read: Settings) -> None:
    """Print a line for each change from now on, after the problems that there are."""
    watcher, teller, known = Watcher(read), Teller(), dict[tuple[str, str], str]()
    while True:
        found = watcher.collect()
        problems = {identity(each): problem_line(each) for each in found["problems"]}
        gone = [f"over: {text.rpartition('; ')[0]}" for key, text in known.items() if key not in problems]
        lines = [*gone, *(text for key, text in problems.items() if key not in known)]
        for text in [*lines, *teller.lines(journal_if_any(read))]:
            click.echo(f"{datetime.now():%H:%M:%S} {' '.join(clean(text).split())}")
        sys.stdout.flush()
        known = problems
        time.sleep(POLL_SECONDS)


class Teller:
    """Tells what runs have done since the last time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Narrator, int, float]] = {}  # run → narrator, last event, time of the last change
        self._since = time.time()
        self._is_first = True

    def lines(self, noted: Journal | None) -> list[str]:
        """Return a line for each new step, and for each run that has ended. The first call only reads what was before."""
        if noted is None:
            return []
        lines: list[str] = []
        for run in noted.runs("status = 'running' or updated >= ?", self._since):
            narrator, seen, updated = self._known.get(run.id) or (Narrator(run), 0, 0.0)
            if run.updated == updated:
                continue
            for event in noted.events(run.id, seen):
                seen, told = event.seq, narrator.line(event)
                if told and not told.is_detail:
                    lines.append(f"{short_id(run.id)}: {told.text}")
            self._known[run.id] = narrator, seen, run.updated
            if run.status != "running":
                lines.append(f"{short_id(run.id)}: {run.outcome}: {run.result.get('reason', '')}")
        if self._is_first:
            lines, self._is_first = [], False
        return lines
