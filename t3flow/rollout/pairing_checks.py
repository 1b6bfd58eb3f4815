"""The steps that ask whether users pair: before a restart, so that it is not blamed for what was so before, and after one that failed."""

from typing import TypedDict

from t3flow.deferrals import left_behind
from t3flow.engine.step import step
from t3flow.host import preflight, slots
from t3flow.host.host import this_host
from t3flow.host.pairing import witnesses
from t3flow.rollout.suspicion import least_users

ENOUGH = 2
"""So many users who run a version and pair prove it where it fails for one more."""


class Before(TypedDict):
    """What speaks against restarting: `stops`, whatever a person wants; `no_pairing`: no user pairs, so that no restart could be verified."""

    stops: str
    no_pairing: str


@step(interruptible=True, syncs_first=False)
def dispatch_before(version: str, besides: list[str], without: list[str]) -> Before:
    """Ask whether the dispatch pairs some user, before a bump restarts the first. Only reads, but for how pairing went.

    Users `besides` are not asked; those `without`, whom a person left out, never speak against the dispatch.
    """
    host = this_host()
    if trouble := preflight.trouble(host, [version]):
        return {"stops": trouble, "no_pairing": ""}
    against = witnesses.against_dispatch(host, version, besides, without, witnesses.BEFORE_SECONDS)
    return {"stops": "", "no_pairing": _before(against)}


@step(interruptible=True, syncs_first=False)
def pairings_before(users: list[str]) -> list[str]:
    """Ask each of the users whom a bump may restart whether they pair, and return those who do not. Only reads, but for how it went.

    A pairing writes to the user's database, so that this comes before the snapshots: one taken after it need not be taken again at the restart.
    """
    return sorted(witnesses.note_now(this_host(), users, witnesses.EACH_SECONDS))


@step(interruptible=True, syncs_first=False)
def pairing_before(user: str) -> Before:
    """Ask whether a deferred user pairs before their restart; if not, whether another does. Only reads, but for how it went."""
    host = this_host()
    if trouble := preflight.trouble(host, []):
        return {"stops": trouble, "no_pairing": ""}
    if not witnesses.pairs_now(host, user):
        return {"stops": "", "no_pairing": ""}
    against = witnesses.against_dispatch(host, "", [], (), witnesses.BEFORE_SECONDS)
    return {"stops": "", "no_pairing": _before(against)}


def _before(against: str) -> str:
    return (
        f"no user could pair before the restart: {against}; repair the dispatch or their servers, then check: t3flow verify"
        if against
        else ""
    )


@step(syncs_first=False)
def proven_by(version: str, user: str) -> list[str]:
    """Return users beside this one who run a version and pair, if it is the accepted default; [] for any other version. Only reads.

    Also [] where it was taken back from so many others, each alone as it seemed, that the watch after a bump would suspect it.
    """
    host = this_host()
    if slots.default_version(host.settings.paths.versions_dir) != version:
        return []
    running = witnesses.running(host, version, [user])
    failed = [each for each in left_behind.taken_back(host.journal, version) if each != user]
    if len(failed) + 1 >= least_users(len(running) + len(failed) + 1):
        return []
    return witnesses.some_who_pair(host, running, ENOUGH)


@step()
def note_alone(user: str, version: str, reason: str) -> None:
    """Note that a version fails for a user alone, as it seems, so that the next such user counts. Repeating it writes the same."""
    left_behind.note(this_host().journal, user, version, left_behind.HELD, reason)
