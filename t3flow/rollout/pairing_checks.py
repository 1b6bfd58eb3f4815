"""Steps that check whether users pair: before a restart, so that it is not blamed for an earlier fault, and after one that failed."""

from typing import TypedDict

from t3flow.deferrals import left_behind
from t3flow.engine.step import step
from t3flow.host import slots
from t3flow.host.host import current_host
from t3flow.host.pairing import witnesses
from t3flow.host.slots import preflight
from t3flow.rollout.suspicion import least_users

ENOUGH = 2
"""If this many users run a version and pair, its failure for one more is that user's own."""


class Before(TypedDict):
    """Why not to restart: `stops` applies in any case; `no_pairing`: no user pairs, so that no restart could be verified."""

    stops: str
    no_pairing: str


@step(interruptible=True, syncs_first=False, former_names=("dispatch_before",))
def check_dispatch(version: str, besides: list[str], without: list[str]) -> Before:
    """Check that the dispatch pairs some user before a bump restarts the first. Only reads, except that pairing results are recorded.

    Users in `besides` are not asked. Users in `without`, whom an operator left out, never count against the dispatch.
    """
    host = current_host()
    if trouble := preflight.problem(host, [version]):
        return {"stops": trouble, "no_pairing": ""}
    against = witnesses.dispatch_problem(host, version, besides, without, witnesses.UNSTOPPED_LIMIT_SECONDS)
    return {"stops": "", "no_pairing": _before(against)}


@step(interruptible=True, syncs_first=False, former_names=("pairings_before",))
def check_pairings(users: list[str]) -> list[str]:
    """Pair each user whom a bump may restart, and return the users who cannot. Only reads, except that pairing results are recorded.

    A pairing writes to the user's database. It comes before the snapshots, so that they need not be taken again at the restart.
    """
    return sorted(witnesses.note_pairings_now(current_host(), users, witnesses.ALL_LIMIT_SECONDS))


@step(interruptible=True, syncs_first=False, former_names=("pairing_before",))
def check_pairing(user: str) -> Before:
    """Check that a deferred user pairs before the restart; if not, whether another user does. Only reads, except that results are recorded."""
    host = current_host()
    if trouble := preflight.problem(host, []):
        return {"stops": trouble, "no_pairing": ""}
    if not witnesses.note_pairing_now(host, user):
        return {"stops": "", "no_pairing": ""}
    against = witnesses.dispatch_problem(host, "", [], (), witnesses.UNSTOPPED_LIMIT_SECONDS)
    return {"stops": "", "no_pairing": _before(against)}


def _before(against: str) -> str:
    """Return why users do not pair, with the command to run."""
    if not against:
        return ""
    return f"no user could pair before the restart: {against}; repair the dispatch or the servers, then check: t3flow verify"


@step(syncs_first=False, former_names=("proven_by",))
def other_users_pairing(version: str, user: str) -> list[str]:
    """Return other users who run a version and pair, if it is the accepted default; [] for any other version. Only reads.

    Also [] if it was taken back from so many users, each for what seemed their own fault, that the watch after a bump would suspect it.
    """
    host = current_host()
    if slots.default_version(host.settings.paths.versions_dir) != version:
        return []
    running = witnesses.users_running(host, version, [user])
    failed = [each for each in left_behind.failing_alone(host.journal, version) if each != user]
    if len(failed) + 1 >= least_users(len(running) + len(failed) + 1):
        return []
    return witnesses.find_pairing_users(host, running, ENOUGH)


@step(wording=("reason",), former_names=("note_alone",))
def note_fails_alone(user: str, version: str, reason: str) -> None:
    """Record that a version seems to fail for a user alone, so that the next such user counts. Idempotent."""
    left_behind.note(current_host().journal, user, version, left_behind.HELD, reason)
