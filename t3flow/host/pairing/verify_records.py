"""What the hourly verify has recorded besides each user's last pairing: when it last verified one, what it waits for, and a fault of the dispatch."""

import time
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host.records import facts

VERIFY = "verify"
"""Fact: `every` (minutes, 0 = off), `at` (when a user was last verified), `waiting` (for what it waits, or ""), `since` (when it began to)."""
DISPATCH = "no_pairing"
"""Fact: while the dispatch pairs no user: `since`, `at` (the last failure), `problem`. Times are epoch seconds."""


def note_state(journal: Journal, minutes: float, waiting: str) -> None:
    """Record the period in force and what the verify waits for. Writes only what has changed."""
    known = state(journal)
    if (known.get("every"), known.get("waiting")) != (minutes, waiting):
        value = {"every": minutes, "at": known.get("at"), "waiting": waiting, "since": time.time()}
        facts.write(journal, VERIFY, value, synced=False)
    if not minutes and dispatch_fault(journal) is not None:  # nothing would end it
        facts.write(journal, DISPATCH, None, synced=False)


def note_verified(journal: Journal) -> None:
    """Record that a user has just been verified, whatever the result."""
    facts.change(journal, VERIFY, lambda known: {**(known or {}), "at": time.time()}, synced=False)


def state(journal: Journal) -> dict[str, Any]:
    """Return the fact, or {} if no consumer has verified anything yet."""
    return facts.read(journal, VERIFY) or {}


def note_dispatch(journal: Journal, problem: str) -> None:
    """Record that the dispatch pairs no user, or ("") that it does again. `since` stays that of the first."""
    now = time.time()

    def change(known: dict[str, Any] | None) -> dict[str, Any] | None:
        return {"since": (known or {}).get("since", now), "at": now, "problem": problem} if problem else None

    facts.change(journal, DISPATCH, change, synced=False)


def dispatch_fault(journal: Journal) -> dict[str, Any] | None:
    """Return the fault of the dispatch, or None."""
    found: dict[str, Any] | None = facts.read(journal, DISPATCH)
    return found
