"""The hourly verify as people see it: when it last verified a user, whom it has not reached, and why."""

import time
from collections.abc import Iterable

from t3flow.engine.journal import Journal
from t3flow.host.pairing import last_pairings, verify_records
from t3flow.host.records import facts
from t3flow.settings.load import Settings
from t3flow.state.documents import DispatchFault, Verify
from t3flow.state.times import rfc3339

SLACK_SECONDS = 600.0
"""How much later than two periods a user counts as overdue."""


def verify_state(read: Settings, noted: Journal | None, running: Iterable[str]) -> Verify:
    """Return the state of the hourly verify. `running` are the managed users with a running server, who are to be verified."""
    known = verify_records.state(noted) if noted else {}
    every = float(known.get("every", read.verify.every_minutes))
    late = overdue(noted, every, running) if noted and every else []
    waiting = str(known.get("waiting") or "")
    return Verify(every_minutes=every, last=rfc3339(known.get("at")), waiting_for=waiting, overdue=late)


def overdue(noted: Journal, every_minutes: float, running: Iterable[str]) -> list[str]:
    """Return the users whose pairing was not verified for over two periods of a consumer's life, those who waited longest first."""
    seen, began = last_pairings.last_seen(noted), float((facts.read(noted, "consumer") or {}).get("since") or 0.0)
    limit = time.time() - 120.0 * every_minutes - SLACK_SECONDS
    late = {user: seen.get(user, 0.0) for user in running if max(seen.get(user, 0.0), began) < limit}
    return sorted(late, key=lambda user: late[user])


def dispatch_fault(noted: Journal | None) -> DispatchFault | None:
    """Return why the dispatch pairs no user, as the hourly verify found; None if it does."""
    fault = verify_records.dispatch_fault(noted) if noted else None
    return DispatchFault(since=rfc3339(fault["since"]), problem=fault["problem"]) if fault else None


def overdue_text(late: list[str], every_minutes: float, waiting_for: str) -> str:
    """Return that users were not verified in time, for people."""
    shown, rest = ", ".join(late[:3]), len(late) - 3
    more = f" and {rest} other users" if rest > 0 else ""
    why = f": {waiting_for}" if waiting_for else ": their servers keep restarting, or the consumer hangs"
    return (
        f"The pairing of {shown}{more} is verified every {every_minutes:g} min, but was not for over two periods{why}"
    )
