"""How long a deferred user is waited for: the user's own wish (`t3flow me`), and `deferral.processes_days` for processes that were left running.

Neither ever reaches a live or queued turn, the quiet period, a freeze, a hold, or a version that failed for the user.
"""

import time
from dataclasses import replace

from t3flow.host.activity.idle import Idleness
from t3flow.host.host import Host
from t3flow.host.records import deferral_records, wishes

LATER = "later"
"""What a deferral waits for if its user asked for a later date."""
DAY_SECONDS = 86400.0


def wants_now(host: Host, user: str) -> bool:
    """Return whether a user asked to be moved at once, in or out of the window."""
    return wishes.wish_of(host.journal, user).kind == wishes.NOW


def later_date(host: Host, user: str) -> float | None:
    """Return the date (epoch seconds) before which a user asked not to be moved, or None."""
    wish = wishes.wish_of(host.journal, user)
    return wish.until if wish.kind == wishes.LATER else None


def later_words(until: float) -> str:
    """Return why such a user waits."""
    return f"asked to be moved no earlier than {_date(until)}"


def ignores_processes(host: Host, user: str) -> bool:
    """Return whether left-over processes no longer hold a user back: the user asked for it, or was deferred for `processes_days`."""
    ends = patience_ends(host, user)
    return wants_now(host, user) or (ends is not None and ends <= time.time())


def patience_ends(host: Host, user: str) -> float | None:
    """Return when left-over processes no longer hold a deferred user back (epoch seconds), or None for never."""
    days = host.settings.deferral.processes_days
    pending = deferral_records.deferral(host.journal, user) if days else None
    return pending.since + days * DAY_SECONDS if pending is not None else None


def with_end(host: Host, user: str, found: Idleness) -> Idleness:
    """Return why a user is not idle, with the date from which on left-over processes do not matter."""
    ends = patience_ends(host, user) if found.waiting_for == "running_process" else None
    if ends is None:
        return found
    detail = f"{found.detail}; from {_date(ends)} on, t3flow restarts the server although it does"
    return replace(found, detail=detail, ask_again=min(found.ask_again, ends))


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
