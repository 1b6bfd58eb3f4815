"""Restarts that failed for no fault of the version: which end a run, and which make other users wait."""

from collections.abc import Callable

import pytest

from t3flow.deferrals import blockers
from t3flow.deferrals.idleness import after_a_failure
from t3flow.host.host import Host
from t3flow.host.users import Result, result_of
from t3flow.rollout import blame
from t3flow.rollout.blame import escalate_shared_fault

USERS = ("ada", "grace", "linus")


def results(*faults: str) -> dict[str, Result]:
    """Return the users in the order of their restarts, each with the fault ("": restarted)."""
    return {
        user: {**result_of("deferred" if fault else "restarted", "0.0.24", fault), "at_fault": fault}
        for user, fault in zip(USERS, faults, strict=False)
    }


@pytest.mark.parametrize(
    ("faults", "ends"),
    [
        ((blame.HOST,), False),
        ((blame.HOST, blame.HOST), True),
        ((blame.HOST, "", blame.HOST), False),
        ((blame.MANAGER,), True),
        ((blame.USER, blame.USER, blame.USER), False),
        ((blame.USER, blame.HOST, blame.USER), False),
    ],
)
def test_what_the_next_user_would_meet_ends_the_run(faults: tuple[str, ...], ends: bool) -> None:
    assert escalate_shared_fault(results(*faults)) is ends


@pytest.mark.parametrize(("kind", "waits"), [(blockers.RESTART, True), (blockers.OWN, False)])
def test_a_fault_of_one_users_own_delays_no_other(bare: Callable[..., Host], kind: str, waits: bool) -> None:
    host = bare()
    blockers.note(host.journal, "ada", kind, "ada could not be moved")
    [found] = [each for each in [blockers.of_user(host.journal, "ada", kind)] if each]
    assert (after_a_failure(host, "grace", found.at + 1) is not None) is waits
    assert after_a_failure(host, "ada", found.at + 1) is None
