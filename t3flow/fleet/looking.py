"""Ask the fleet, and record what it answered."""

import time

from t3flow.engine.journal import Journal
from t3flow.fleet import known
from t3flow.fleet.errors import FleetError, FleetUnreachable
from t3flow.fleet.known import Known
from t3flow.fleet.members import Fleet


def look(journal: Journal, fleet: Fleet) -> Known:
    """Read all records and slots, and record what is known then. Raises FleetError, which is recorded too."""
    assert fleet.store is not None
    with known.LOCK:
        before = known.read(journal)
        try:
            keys = fleet.keys()
            found = fleet.store.read(sorted(keys.public))
        except FleetError as error:
            known.note_unreachable(journal, str(error), 0.0 if isinstance(error, FleetUnreachable) else None)
            raise
        return known.note(journal, known.merge(before, keys, found.now, found.records, found.slots))


def lasting(known_: Known, settings_hours: float) -> bool:
    """Return whether the fleet has not answered for so many hours of this host's running time. 0: never."""
    return 0 < settings_hours * 3600 <= known_.unreachable_for


def shown_age(known_: Known, name: str) -> float | None:
    """Return how old a host's record is now, in seconds: its age when the fleet answered last, and the time since then."""
    age = known_.age(name)
    return None if age is None else age + max(0.0, time.time() - known_.at)
