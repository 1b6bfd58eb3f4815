"""Why deferrals wait, and since when for the same cause: a doubt that never ends must be said, as nothing else would tell of it.

Kept as a fact beside the deferrals. Causes that come and go by the clock or by a person (the window, a freeze, a stopped server) neither
count nor interrupt: a process that is there every night keeps a user back although the window closes every morning.
"""

import shlex
import time
from typing import Any, NamedTuple

from loguru import logger

from t3flow.engine.journal import Journal
from t3flow.host import records
from t3flow.host.records import Deferral

CAUSES = "causes"
DOUBTS = ("active_turn", "queued_work", "quiet_period", "running_process", "unreadable_state")
OLD_CHECKS = 50
OLD_SECONDS = 3 * 86400.0
SAY_AGAIN_SECONDS = 86400.0


class Cause(NamedTuple):
    """What a deferral waits for, since when (epoch seconds), and how many checks found it so."""

    waiting_for: str
    since: float
    checks: int

    def is_old(self, now: float) -> bool:
        """Whether it has lasted for so long, or for so many checks, that a person should look."""
        return self.checks >= OLD_CHECKS or now - self.since >= OLD_SECONDS


def note_check(journal: Journal, user: str, waiting_for: str, detail: str, next_check: float) -> None:
    """Note why a check found a user not ready and when the next one is due; say it in the log, once a day, when that has been so for long."""
    records.note_check(journal, user, waiting_for, detail, next_check)
    pending = records.deferral(journal, user)
    if pending is None or waiting_for not in DOUBTS:
        return
    now = time.time()

    def change(known: Any) -> dict[str, Any]:
        deferred = {entry.user for entry in records.deferrals(journal)}
        kept = {name: entry for name, entry in (known or {}).items() if name in deferred}
        before = kept.get(user)
        if before is None or before["waiting_for"] != waiting_for or before["since"] < pending.since:
            before = {"waiting_for": waiting_for, "since": now, "checks": 0, "said": 0.0}
        entry = {**before, "checks": before["checks"] + 1}
        if Cause(waiting_for, entry["since"], entry["checks"]).is_old(now) and now - entry["said"] > SAY_AGAIN_SECONDS:
            entry["said"] = now
        kept[user] = entry
        return kept

    entry = records.change_fact(journal, CAUSES, change)[user]
    if entry["said"] == now:
        logger.warning("DEFERRAL OLD: {}", line(pending, Cause(waiting_for, entry["since"], entry["checks"]), detail))


def of(journal: Journal, pending: Deferral) -> Cause | None:
    """The cause that a deferral waits for; None where it has none, or waits for what comes and goes by itself."""
    noted = (records.fact(journal, CAUSES) or {}).get(pending.user)
    if noted is None or noted["since"] < pending.since:
        return None
    return Cause(noted["waiting_for"], noted["since"], noted["checks"])


def line(pending: Deferral, cause: Cause, detail: str) -> str:
    """That a deferral has waited for the same cause for long, with the command to run."""
    hours = (time.time() - cause.since) / 3600
    how_long = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours"
    what = f"{pending.user} has waited {how_long} ({cause.checks} checks) for {pending.target}: {cause.waiting_for}"
    return f"{what}{f', {detail}' if detail else ''}; {remedy(pending.user, cause.waiting_for)}"


def remedy(user: str, waiting_for: str) -> str:
    """What a person can run."""
    name = shlex.quote(user)
    if waiting_for == "running_process":
        return f"when it may be ended: t3flow enqueue drain {name} --ignore-processes {name}"
    if waiting_for == "unreadable_state":
        return f"t3flow doctor; then t3flow enqueue drain {name}"
    return f"ask {user} to let their agents end; then t3flow enqueue drain {name}"
