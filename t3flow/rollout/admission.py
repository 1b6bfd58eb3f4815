"""Decide whether a deferred user may be restarted now: users pair, and the version passed on this user's databases."""

from t3flow import tasks
from t3flow.engine.errors import StepFailed
from t3flow.engine.flow import CRASHED
from t3flow.gate import trials
from t3flow.gate.verdicts import Refused, judge_each
from t3flow.host.users import Result, User, result_of
from t3flow.rollout.pairing_checks import check_pairing
from t3flow.rollout.snapshots import back_up
from t3flow.tasks import Snapshot


def pass_alone(slot: str, user: str, previous: str, version: str, snapshot: Snapshot) -> str:
    """Try a version on the databases of one user. Return why the user is not to be moved, or "" if they may be."""
    if snapshot["problem"]:
        return f"no backup: {snapshot['problem']}"
    try:
        present: User = {"user": user, "version": previous, "running": True}
        withheld = judge_each(slot, version, previous, [present], [snapshot])
    except Refused as refusal:
        return refusal.reason
    return next((reason for _, reason in withheld.values()), "")


def reason_not_admitted(user: str, previous: str, version: str, *, insists: bool = False) -> Result | None:
    """Return why a deferred, idle user is not restarted: no user pairs, or the version does not pass on their databases.

    `insists`: an operator named this user, so that only what would fail in any case counts.
    """
    before = check_pairing(user)
    if trouble := before["stops"] or ("" if insists else before["no_pairing"]):
        return {**result_of("deferred", previous, trouble), "waiting_for": "host_busy"}
    if not trials.is_untried(user, version):
        return None
    tasks.open_scratch()
    slot = tasks.stage(version, False)["slot"]
    try:
        snapshot = back_up(user, previous, version, False)
    except StepFailed as failure:
        if failure.kind == CRASHED:
            raise
        tasks.clean_scratch()
        return {**result_of("deferred", previous, f"no backup: {failure.reason}"), "waiting_for": "host_busy"}
    reason = pass_alone(slot, user, previous, version, snapshot)
    tasks.clean_scratch()
    if reason:
        return {**result_of("deferred", previous, reason), "waiting_for": "unreadable_state"}
    trials.note_tried(user)
    return None
