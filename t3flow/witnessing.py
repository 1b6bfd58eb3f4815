"""The steps that ask whether users pair: before a restart, so that it is not blamed for what was so before, and after one that failed."""

from typing import TypedDict

from t3flow.engine.step import step
from t3flow.host import preflight, slots, witnesses
from t3flow.host.host import this_host

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
def pairing_before(user: str, others: bool) -> Before:
    """Ask whether a user pairs before their restart; if not, and `others` are to be asked, whether another does. Only reads, but for how it went."""
    host = this_host()
    if others and (trouble := preflight.trouble(host, [])):
        return {"stops": trouble, "no_pairing": ""}
    why = witnesses.pairs_now(host, user)
    if not why or not others:
        return {"stops": "", "no_pairing": ""}
    against = witnesses.against_dispatch(host, "", [], (), witnesses.BEFORE_SECONDS)
    return {"stops": "", "no_pairing": _before(against)}


def _before(against: str) -> str:
    return f"{against} before anything was done: mend the dispatch or their servers (t3flow verify)" if against else ""


@step(syncs_first=False)
def proven_by(version: str, user: str) -> list[str]:
    """Return users beside this one who run a version and pair, if it is the accepted default; [] for any other version. Only reads."""
    host = this_host()
    if slots.default_version(host.settings.paths.versions_dir) != version:
        return []
    return witnesses.on_version(host, version, [user], ENOUGH)
