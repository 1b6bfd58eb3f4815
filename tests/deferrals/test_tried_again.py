"""A bump of a default that was rejected, as by a rollback of one user, and is tried again."""

from collections.abc import Callable

import pytest

from t3flow.deferrals import deferral
from t3flow.host.host import Host, set_current_host
from t3flow.host.records import rejections
from t3flow.state import host as state
from t3flow.state.deferrals import left_behind_line

VERSION = "0.0.25-nightly.20260609.501"


@pytest.mark.parametrize(
    ("is_behind", "is_rejected"),
    [([], False), ([False], False), ([True, False], False), ([True, True], True)],
    ids=["all are moved", "one is busy", "one is busy and one left behind", "all are left behind"],
)
def test_who_passed_the_gate_waits_for_no_newer_version(
    hosted: Callable[..., Host], is_behind: list[bool], is_rejected: bool
) -> None:
    """The deferral of a busy user would wait for another version. A version that fails for all tried users stays rejected."""
    host = hosted(("ada", "grace", "linus"))
    set_current_host(host)
    rejections.reject(host.journal, VERSION, "ada was rolled back from it", [])
    causes: dict[str, deferral.Cause] = {
        user: {"waiting_for": "active_turn", "detail": "", "is_behind": each}
        for user, each in zip(("ada", "grace", "linus"), is_behind, strict=False)
    }
    deferral.defer.unjournaled(VERSION, causes, True)
    assert (VERSION in rejections.rejected(host.journal)) == is_rejected


def test_a_user_who_was_rolled_back_from_the_default_is_not_moved_by_a_bump(hosted: Callable[..., Host]) -> None:
    """It would end as refused_rejected, so another command is named."""
    host = hosted()
    found = state.collect(host.settings, host.journal, is_live=False)
    each = {"held": None, "deferred": None, "left_behind": None, "managed": True, "assigned_version": "0.0.24"}
    found |= {"default_version": VERSION, "run": None, "frozen": None, "rejected": {}}
    assert left_behind_line("ada", each, found).endswith(": t3flow enqueue bump")  # type: ignore[arg-type]
    found |= {"rejected": {VERSION: "ada was rolled back from it"}}
    assert left_behind_line("ada", each, found).endswith(": t3flow enqueue bump --again")  # type: ignore[arg-type]
