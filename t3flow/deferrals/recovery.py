"""Keep a living drain for every pending deferral. A drain that ended in an error is replaced with backoff, and its cause is shown."""

import time

from t3flow.deferrals import blockers
from t3flow.deferrals.deferral import drain_of
from t3flow.engine.engine import Engine
from t3flow.engine.journal import Run
from t3flow.engine.runs import new_run
from t3flow.host.host import Host
from t3flow.host.records import deferral_records
from t3flow.host.records.deferral_records import Deferral

FIRST_SECONDS = 60.0
LONGEST_SECONDS = 3600.0
"""A drain that ended in an error is replaced after 1, 2, 4 … minutes, at most an hour."""


def revive_drains(engine: Engine, host: Host) -> None:
    """Give every deferral whose drain has ended a new one. Idempotent: a deferral whose drain runs or sleeps is left alone.

    So is one that was settled or renewed meanwhile: a bump may have given it a newer version, or an operator dropped it. After a crash between the
    new run and its note in the deferral, the next call finds the run; before that, it counts the failure twice.
    """
    for pending in deferral_records.deferrals(host.journal):
        last = next(iter(host.journal.runs("id = ?", pending.run)), None)
        if last is not None and last.status == "running":
            continue
        now = deferral_records.deferral(host.journal, pending.user)
        if now is None or (now.run, now.version) != (pending.run, pending.version):
            continue  # it was settled or renewed while this went through the others
        under_way = drain_of(host, pending.user, make=False)
        at = time.time()
        if last is not None and last.status == "failed" and not under_way:
            at += _note_failure(host, pending, last)
        run = under_way or new_run(host.journal, "drain", {"user": pending.user}, wake_at=at) or ""
        if deferral_records.replace_drain(host.journal, pending, run):
            engine.hint(run, at)


def _note_failure(host: Host, pending: Deferral, last: Run) -> float:
    """Record in the deferral why its drain ended, and return how many seconds later the next one begins."""
    reason = str(last.result.get("reason") or "no reason given")
    line = f"the drain of {pending.user} ended with {last.outcome}: {reason} ({last.id})"
    times = blockers.note(host.journal, pending.user, blockers.DRAIN, line)
    wait_seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(times - 1, 10))
    detail = f"its drain ended with {last.outcome}: {reason}"
    deferral_records.note_check(host.journal, pending.user, "unreadable_state", detail, time.time() + wait_seconds)
    return wait_seconds
