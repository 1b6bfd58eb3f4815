"""Following a run: live on a terminal, plain lines when piped, ended by its outcome."""

import sys
import time
from contextlib import nullcontext
from datetime import datetime
from typing import Any

import click

from t3flow.cli.base import NoConsumer, colour, consumer_pid, dump, say, span, styled, table
from t3flow.engine.journal import Event, Journal, Run
from t3flow.host.records import facts
from t3flow.settings.load import Settings

POLL_SECONDS = 0.1
GONE_SECONDS = 10.0
EXIT_OK = {
    *("updated", "up_to_date", "refused_downgrade", "refused_channel", "refused_rejected"),
    *("too_young", "dry_run_passed", "done"),
}
MARKS = {"completed": "✓", "undone": "↩", "failed": "✗", "undo_failed": "✗", "retrying": "…", "signal": "!"}


def follow(read: Settings, journal: Journal, run_id: str, as_json: bool) -> int:
    """Shows a run's steps as they come, then its outcome. Returns the exit code. Raises NoConsumer when it has gone for long."""
    from rich.console import Console
    from rich.status import Status

    live = sys.stderr.isatty() and not as_json
    status = Status("waiting", console=Console(stderr=True), spinner="dots") if live else nullcontext()
    seen, last_alive, waited_for = 0, time.monotonic(), None
    with status as spinner:
        while True:
            run = journal.run(run_id)
            for event in journal.events(run_id, seen):
                seen = event.seq
                if event.kind == "started" and spinner is not None:
                    spinner.update(f"{event.step} {subject(event)}")
                line = event_line(event)
                if line:
                    say(line if live else f"{datetime.fromtimestamp(event.at):%H:%M:%S} {line}")
            if run.status != "running":
                break
            if consumer_pid(read.paths.state_dir) is not None:
                last_alive = time.monotonic()
            elif time.monotonic() - last_alive > GONE_SECONDS:
                raise NoConsumer(
                    f"the consumer is gone; {run_id} is journaled and goes on when it is back: systemctl start t3flow"
                )
            waits_for = facts.read(journal, "waiting_for")
            if waits_for and waits_for != waited_for:
                say(f"the consumer waits for {waits_for}; {run_id} is journaled and goes on with it: t3flow doctor")
            waited_for = waits_for
            if spinner is not None and run.wake_at is None:
                spinner.update(f"waits for {holder(journal)} to let go of the host")
            time.sleep(POLL_SECONDS)
    if as_json:
        dump(document(run))
    else:
        conclude(run)
    return exit_code(run)


def holder(journal: Journal) -> str:
    """The run that has the host, or what stands for it."""
    rows = journal.query("select run from locks")
    return str(rows[0][0]) if rows else "another run"


def document(run: Run) -> dict[str, Any]:
    """What `--wait --json` prints."""
    found = run.result
    return {
        "run": run.id,
        "workflow": "drain" if run.workflow == "drain_now" else run.workflow,
        "status": run.status,
        "outcome": run.outcome,
        "from": found.get("from"),
        "target": found.get("target"),
        "reason": found.get("reason", ""),
        "users": found.get("users", {}),
        "notices": found.get("notices", []),
    }


def exit_code(run: Run) -> int:
    """The exit code of an ended run."""
    return 3 if run.outcome == "frozen" else 0 if run.outcome in EXIT_OK else 1


def conclude(run: Run) -> None:
    """The outcome for people."""
    found = run.result
    good = exit_code(run) == 0
    click.echo(f"{styled(str(run.outcome), fg='green' if good else 'red', bold=True)}: {found.get('reason', '')}")
    for notice in found.get("notices", []):
        click.echo(f"{styled('notice', fg='yellow')}: {notice}")
    users = found.get("users", {})
    if users:
        rows = [
            [
                user,
                each["result"],
                each["version"],
                f"{each['downtime_s']:.1f} s" if each["downtime_s"] else "-",
                each["reason"],
            ]
            for user, each in users.items()
        ]
        table(["user", "result", "version", "away", "why"], rows)


def subject(event: Event) -> str:
    """What a step works on: the short texts among its arguments."""
    args = event.data.get("args") or []
    words = [arg for arg in args if isinstance(arg, str) and "/" not in arg and len(arg) < 60]
    return " ".join(words[:2])


_begun: dict[str, tuple[float, str]] = {}


def event_line(event: Event) -> str:
    """One line for an event, or "" for one that people need not see."""
    step = event.step or ""
    if event.kind == "started":
        _begun[step] = (event.at, subject(event))
        return ""
    if event.kind == "continued":
        return f"… its history began anew after {event.data['events']} events"
    if event.kind not in MARKS:
        return ""
    began, about = _begun.pop(step, (event.at, ""))
    about = about and f" {about}"
    mark = MARKS[event.kind]
    if event.kind == "completed" and has_problem(event):
        return f"{tone('!', 'yellow')} {step}{about}{finding(event)}"
    if event.kind in ("failed", "undo_failed"):
        return f"{tone(mark, 'red')} {step}{about}: {event.data['reason']}"
    if event.kind == "retrying":
        return f"{mark} {step}{about}: {event.data['reason']}; again in {span(event.data['at'] - event.at)}"
    if event.kind == "signal":
        return f"{tone(mark, 'yellow')} {step}"
    took = f" ({event.at - began:.1f} s)" if event.at - began >= 0.1 else ""
    return f"{tone(mark, 'green')} {'undo: ' if event.kind == 'undone' else ''}{step}{about}{finding(event)}{took}"


def has_problem(event: Event) -> bool:
    """Whether a step has ended well with bad news."""
    found = event.data.get("result")
    return isinstance(found, dict) and bool(found.get("problem"))


def finding(event: Event) -> str:
    """What a step found, in a few words."""
    found = event.data.get("result")
    verdicts = verdicts_of(event)
    if len(verdicts) == 1:
        return f": on {verdicts[0]['seed']} {judged(verdicts[0])}"
    if verdicts:
        bad = [f"{each['seed']}: {judged(each)}" for each in verdicts if each["verdict"] != "pass"]
        return f": {len(verdicts) - len(bad)} of {len(verdicts)} databases pass{''.join(f'; {line}' for line in bad)}"
    if not isinstance(found, dict):
        return ""
    if "takes" in found:
        return f": {found['takes']}"
    for key in ("problem", "detail", "reason", "nothing_to_do"):
        if found.get(key):
            return f": {found[key]}"
    if "notices" in found and "slot" in found:
        return f": signatures {found['signatures']}" + "".join(f"; {tone('!', 'yellow')} {n}" for n in found["notices"])
    if "target" in found and "default" in found:
        return f": {found['default']} → {found['target']}"
    return ""


def verdicts_of(event: Event) -> list[dict[str, Any]]:
    """The verdicts that a step of the gate gave; none for other steps."""
    found = event.data.get("result") if event.kind == "completed" else None
    listed = found if isinstance(found, list) else [found]
    return [each for each in listed if isinstance(each, dict) and "verdict" in each]


def judged(verdict: dict[str, Any]) -> str:
    """A verdict in words."""
    words = {"pass": "passes", "fail": "FAILS: ", "inconclusive": "inconclusive: "}[verdict["verdict"]]
    not_isolated = f" (not isolated: {verdict['not_isolated']})" if verdict["not_isolated"] else ""
    return f"{words}{verdict['failed']}{not_isolated}"


def tone(text: str, name: str) -> str:
    """Colour on a terminal."""
    return click.style(text, fg=name) if colour() and sys.stderr.isatty() else text
