"""What the dead man's switch is told (`notify.ping_url`): start and end of each scheduled bump, and an hourly heartbeat.

A heartbeat says that all is well only while it is: after a bump that failed, during a freeze that a run caused, and when a scheduled look at the tag
was missed, it says fail. Otherwise the next heartbeat would end the alarm of a night that failed.
"""

import sqlite3
import time
import uuid
from typing import TypedDict

from t3flow.engine.journal import Journal, Run
from t3flow.host import freeze
from t3flow.host.records import facts, outbox
from t3flow.service.notifications.messages import clean
from t3flow.settings import schedule
from t3flow.settings.load import Settings
from t3flow.state.runs import Narrator
from t3flow.state.short import short_id
from t3flow.state.times import rfc3339

CHANNEL = "ping"
BEAT_SECONDS = 3600.0
BEAT_RETRY_SECONDS = 60.0
MAX_AGE_SECONDS = 3600.0
"""An older ping of a run is dropped: the heartbeats tell the present state."""
MISSED_SECONDS = 3 * 3600.0
"""A look at the tag counts as missed when so long after its time, with jitter, no bump has ended or runs."""
LAST_LINES = 30
MAX_BYTES = 10_000
"""Of a body: what each version of healthchecks.io stores."""
LOOKS = "workflow = 'bump' and coalesce(json_extract(args, '$.dry_run'), 0) = 0"
FROZEN_BY = ("bump", "drain", "drain_now", "bake")
"""Workflows whose freeze is a failure. A rollback or restore freezes because a person asked for it."""


class Ping(TypedDict):
    """A ping. `action`: success, or the path that is added to the URL (start, fail, log). `rid`: the id of the run as UUID, "" for none."""

    action: str
    rid: str
    body: str


def of_start(run: Run) -> Ping:
    """Return the ping that a scheduled bump has begun."""
    return Ping(action="start", rid=rid(run), body=run.id)


def of_end(settings: Settings, journal: Journal, run: Run) -> Ping:
    """Return the ping that a scheduled bump has ended, with the last lines of its log if all is not well."""
    problem = what_is_wrong(settings, journal, time.time())
    ending = f"{run.id} ended as {run.outcome}: {run.result.get('reason', '')}"
    if not problem:
        return Ping(action="success", rid=rid(run), body=clean(ending))
    lines = [*last_lines(journal, run), ending, *([] if problem.startswith(short_id(run.id)) else [problem])]
    return Ping(action="fail", rid=rid(run), body=clean("\n".join(lines)))


def heartbeat(settings: Settings, journal: Journal) -> Ping:
    """Return the hourly ping: whether all is well at present."""
    problem = what_is_wrong(settings, journal, time.time())
    return Ping(action="fail" if problem else "success", rid="", body=clean(problem) or "the consumer is running")


def put(connection: sqlite3.Connection, key: str, ping: Ping, at: float) -> None:
    """Insert a ping within the caller's transaction, in place of those that wait: only the newest state counts."""
    connection.execute("delete from outbox where channel = ? and dead is null", (CHANNEL,))
    outbox.put(connection, key, [CHANNEL], dict(ping), at)


def is_scheduled(run: Run) -> bool:
    """Return whether the schedule started this bump."""
    return run.workflow == "bump" and run.args.get("due") is not None and not run.args.get("dry_run")


def rid(run: Run) -> str:
    """Return a UUID that stands for a run, the same each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"t3flow:{run.id}:{run.created}"))


def last_lines(journal: Journal, run: Run) -> list[str]:
    """Return the last lines of a run's history in the words of `t3flow show`."""
    narrator = Narrator(run)
    told = [line.text for event in journal.events(run.id) if (line := narrator.line(event)) is not None]
    return told[-LAST_LINES:]


def what_is_wrong(settings: Settings, journal: Journal, now: float) -> str:
    """Return why all is not well, in a sentence, or ""."""
    frozen = freeze.frozen(settings, journal)
    if frozen and journal.runs(f"id = ? and workflow in {FROZEN_BY}", frozen["by"]):
        return f"Frozen by {short_id(frozen['by'])}: {frozen['reason']}; resume with: t3flow unfreeze"
    last = next(iter(journal.runs(f"{LOOKS} and status != 'running'", limit=1)), None)
    if last is not None and (last.status == "failed" or last.outcome == "cancelled"):
        reason = last.result.get("reason", "")
        return f"{short_id(last.id)} ended as {last.outcome}: {reason}; see t3flow show {last.id}"
    looked = last.created if last is not None else _began(journal)
    due = schedule.next_due(settings, looked) + settings.schedule.jitter_s
    if now > due + MISSED_SECONDS and not journal.runs(f"{LOOKS} and status = 'running'", limit=1):
        return f"No look at the tag since {rfc3339(looked)}, though one was due at {rfc3339(due)}; to look now: t3flow enqueue bump"
    return ""


def _began(journal: Journal) -> float:
    """Return since when the host has been in t3flow's care: its first run, else the start of the consumer."""
    rows = journal.query("select min(created) from runs")
    return float(rows[0][0] or (facts.read(journal, "consumer") or {}).get("since") or time.time())
