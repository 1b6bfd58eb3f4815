"""What this host tells the fleet, all of it derived from the journal, the links, and the freeze file."""

from typing import Any, NotRequired, TypedDict

from t3flow.engine.journal import Journal
from t3flow.fleet.records import LONGEST_VERSION, MOST_VERSIONS, Record, shortened
from t3flow.host import freeze, pruning, slots
from t3flow.host.host import Host
from t3flow.host.records import bakes, facts, rejections
from t3flow.host.records.facts import BAKE
from t3flow.t3.secrets import hide

TURN = "fleet_turn"
"""Fact: the run and version for which this host has taken its turn, until it gives the slot back (a Turn). See `turn.py`."""
SEQ = "fleet_seq"
"""Fact: the sequence number of the record that this host wrote last, or was about to write."""
WAITING = "fleet_waiting"
"""Fact: the run and version that wait for their turn, why, and since when. It stays until a run gets its turn."""


class Taken(TypedDict):
    """A run and the version for which it took the turn of this host. `is_bump`: not a drain."""

    run: str
    version: str
    is_bump: bool


class Turn(Taken):
    """The last turn. `since`: epoch seconds; `is_alone`: without the fleet; `earlier`: former turns whose end the slot waits for too."""

    since: float
    is_alone: bool
    earlier: NotRequired[list[Taken]]


def accepted(host: Host) -> list[str]:
    """Return the versions that this host made its default and did not reject since, the oldest first."""
    rejected = rejections.rejected_here(host.journal)
    default = slots.default_version(host.settings.paths.versions_dir)
    known = [version for version in facts.read(host.journal, pruning.ACCEPTED) or [] if version != default]
    return [version for version in [*known, *([default] if default else [])] if version not in rejected]


def verified(host: Host) -> list[str]:
    """Return the accepted versions whose bake has ended well, or that needed none.

    A version for which this host has taken its turn is none of them while a run changes the host: a run accepts a version and begins its bake in
    two steps.
    """
    watch: dict[str, Any] = facts.read(host.journal, BAKE) or {}
    unfinished = {watch.get("version"), *bakes.cut_short(host.journal)}
    if has_lease(host.journal) and (turn := facts.read(host.journal, TURN)):
        unfinished |= {each["version"] for each in taken(turn)}
    return [version for version in accepted(host) if version not in unfinished]


def has_lease(journal: Journal, run: str | None = None) -> bool:
    """Return whether a run has the host for itself, or this run has."""
    if run is not None:
        return bool(journal.query("select 1 from locks where run = ?", run))
    return bool(journal.query("select 1 from locks limit 1"))


def is_running(journal: Journal, run: str) -> bool:
    """Return whether a run has not ended."""
    return bool(journal.query("select 1 from runs where id = ? and status = 'running'", run))


def is_own(journal: Journal, run: str) -> bool:
    """Return whether a run is one of this host's, under way or not: in its journal, or with a turn on record, as ended runs are deleted in time."""
    turn = facts.read(journal, TURN)
    is_taken = turn is not None and any(each["run"] == run for each in taken(turn))
    return is_taken or bool(journal.query("select 1 from runs where id = ?", run))


def must_hold(host: Host) -> bool:
    """Return whether this host must keep the slot that it holds.

    It keeps the slot while a run that took its turn is under way, and from the first restart until the version's bake has ended well. A rollback, a
    failure, or a freeze in mid-restart therefore keeps it: the fleet stops until an operator frees the slot, or a later version does well here.
    """
    turn = facts.read(host.journal, TURN)
    return turn is not None and bool(outstanding(host, turn))


def taken(turn: Turn) -> list[Taken]:
    """Return all turns on record, the oldest first."""
    return [*turn.get("earlier", []), Taken(run=turn["run"], version=turn["version"], is_bump=turn["is_bump"])]


def outstanding(host: Host, turn: Turn) -> list[Taken]:
    """Return the turns for which this host must keep its slot, the oldest first: under way, or for a version that was started and has not ended well.

    A version that has ended well settles those before it.
    """
    well, found = verified(host), []
    is_settled = False
    for each in reversed(taken(turn)):
        is_settled = is_settled or each["version"] in well
        is_owed = not is_settled and was_started(host, each["run"], each["version"])
        if is_owed or is_under_way(host.journal, each):
            found.append(each)
    return found[::-1]


def is_under_way(journal: Journal, turn: Taken) -> bool:
    """Return whether the run of a turn may restart users: a bump until it ends, a drain while it has the host for itself."""
    run = turn["run"]
    return is_running(journal, run) and (turn["is_bump"] or has_lease(journal, run))


def was_started(host: Host, run: str, version: str) -> bool:
    """Return whether a user of this host was moved to a version, perhaps in vain, since the run took its turn."""
    if version in accepted(host) or version in rejections.rejected_here(host.journal):
        return True
    if version in slots.links(host.settings.paths.versions_dir).values():
        return True
    touched = ("restarted", "rolled_back", "failed")
    return any(
        each.get("result") in touched
        for found in host.journal.runs("id = ?", run)
        for each in (found.result.get("users") or {}).values()
    )


def record(host: Host, name: str, seq: int, now: float, elapsed_since: Any) -> Record:
    """Return this host's record. `now`: the fleet's clock; `elapsed_since`: how many seconds ago a moment of this host's clock was."""
    settings, journal = host.settings, host.journal
    frozen = freeze.frozen(settings, journal)
    waiting = facts.read(journal, WAITING)
    if waiting is not None and not is_running(journal, waiting["run"]):
        waiting = None
    target = str(waiting["version"]) if waiting else ""
    target = target or next(iter(pruning.versions_in_progress(journal).values()), "")
    target = target or str(facts.read(journal, pruning.TO_BE_ACCEPTED) or "")
    return Record(
        host=name,
        seq=seq,
        at=now,
        wave=settings.fleet.wave,
        default=_version(slots.default_version(settings.paths.versions_dir)),
        last_good=_version(slots.read_last_good(settings.paths.last_good_file)),
        frozen=shortened(hide(frozen["reason"])) if frozen else "",
        accepted=tuple(map(_version, accepted(host)[-MOST_VERSIONS:])),
        verified=tuple(map(_version, verified(host)[-MOST_VERSIONS:])),
        rejected={
            _version(version): shortened(hide(reason))
            for version, reason in list(rejections.rejected_here(journal).items())[-MOST_VERSIONS:]
        },
        target=_version(target),
        waiting=shortened(hide(waiting["reason"])) if waiting else "",
        waiting_since=max(0.0, now - elapsed_since(waiting["since"])) if waiting else 0.0,
    )


def _version(text: str | None) -> str:
    return shortened(text or "")[:LONGEST_VERSION]
