"""The users of the host: each one's server, versions, last pairing and deferral."""

from collections.abc import Callable
from contextlib import suppress

from t3flow import T3flowError
from t3flow.deferrals import left_behind
from t3flow.engine.journal import Journal
from t3flow.host import freeze, slots
from t3flow.host.pairing import last_pairings
from t3flow.host.records import facts, holds
from t3flow.settings.load import Settings
from t3flow.state.deferrals import cause_left_behind, deferrals
from t3flow.state.documents import Frozen, Held, User
from t3flow.state.observed import Observed
from t3flow.state.times import rfc3339


def users(read: Settings, journal: Journal | None, observed: Observed) -> dict[str, User]:
    """Return each observed user under the keys of the interface."""
    pairing = last_pairings.pairings(journal) if journal else {}
    seen = last_pairings.last_seen(journal) if journal else {}
    unknown = (facts.read(journal, facts.UNKNOWN_T3) or {}) if journal else {}
    waiting = {each["user"]: each for each in deferrals(journal)} if journal else {}
    behind = left_behind.causes(journal) if journal else {}
    held = holds.holds(journal) if journal else {}
    found: dict[str, User] = {}
    for user, server in observed["users"].items():
        last = pairing.get(user)
        found[user] = User(
            unit=server["unit"],
            active=server["active"],
            running_version=server["running_version"],
            assigned_version=version_or_none(lambda user=user: slots.effective(read.paths.versions_dir, user)),
            pairing="unknown" if last is None else "failing" if last["reason"] else "ok",
            pairing_since=rfc3339(last["since"]) if last else None,
            pairing_seen=rfc3339(max(last["since"], seen.get(user, 0.0))) if last else None,
            pairing_reason=last["reason"] if last else "",
            unknown=unknown[user][1] if user in unknown else "",
            deferred=waiting.get(user),
            held=hold_document(held.get(user)),
            left_behind=cause_left_behind(behind.get(user)),
            managed=not server["why_unmanaged"],
            why_unmanaged=server["why_unmanaged"],
        )
    return found


def hold_document(hold: holds.Hold | None) -> Held | None:
    """Return a hold as the document has it."""
    if hold is None:
        return None
    return Held(since=rfc3339(hold.since), until=rfc3339(hold.until), reason=hold.reason, by=hold.by)


def version_or_none(read_link: Callable[..., str | None]) -> str | None:
    """Return the version that a link leads to; None for one that leads nowhere."""
    with suppress(T3flowError):
        return read_link()
    return None


def frozen_document(read: Settings, journal: Journal | None) -> Frozen | None:
    """Return why tracking is frozen, as documents have it; None if it is not."""
    found = freeze.frozen(read, journal)
    return Frozen(reason=found["reason"], since=rfc3339(found["since"]), by=found["by"]) if found else None
