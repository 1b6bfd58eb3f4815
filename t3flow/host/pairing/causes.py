"""Causes of a failed pairing other than the version: the user could not pair before, or the dispatch pairs no user."""

from contextlib import suppress

from t3flow import T3flowError
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings, own_activity
from t3flow.host.pairing import probe as pairing_probe
from t3flow.host.pairing.witnesses import dispatch_problem


class BrokenBefore(T3flowError):
    """A user cannot pair after a restart, and could not before it, while others can. The journal stores this class name as a kind of failure."""


class DispatchAtFault(T3flowError):
    """A user cannot pair after a restart, and neither can users who were not restarted."""


def failure_before_restart(host: Host, user: str) -> str:
    """Return why a user whose server is being restarted could not pair before the stop; "" if they could, or if it is unknown."""
    known = last_pairings.pairings(host.journal).get(user)
    began = own_activity.restart_began(host.journal, user)
    return str(known["reason"]) if known and known["reason"] and began is not None and known["since"] < began else ""


def excuse_for(host: Host, user: str) -> str:
    """Return why the restart is not the cause that a user cannot pair: they could not before, or no user can; "" if it may be the cause."""
    return failure_before_restart(host, user) or dispatch_problem(
        host, "", [user], began=own_activity.restart_began(host.journal, user)
    )


def find_other_fault(host: Host, user: str, version: str, error: pairing_probe.NotPaired) -> T3flowError | None:
    """Return the cause other than `version` that a restarted user cannot pair, or None if no other is known."""
    before = failure_before_restart(host, user)
    if problem := dispatch_problem(host, version, [user], began=own_activity.restart_began(host.journal, user)):
        return DispatchAtFault(f"{error}; {problem}, and they were not restarted: the dispatch is at fault")
    with suppress(T3flowError):
        if before:
            pairing_probe.check_running(host, user, version)
            return BrokenBefore(f"{user} cannot pair on {version} ({error}), and could not before ({before})")
    return None
