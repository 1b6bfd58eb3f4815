"""Deferrals: each user who was busy has one, with a drain that moves the user later."""

import json
import time
from typing import TypedDict

from t3flow.deferrals import left_behind, long_waits
from t3flow.engine.runs import new_run, wake_run
from t3flow.engine.step import current_run, step
from t3flow.host import slots
from t3flow.host.host import Host, current_host
from t3flow.host.pruning import TO_BE_ACCEPTED
from t3flow.host.records import deferral_records, facts, rejections, wishes
from t3flow.host.records.holds import HELD_BY
from t3flow.settings import schedule

RETRY_AFTER_YIELD_SECONDS = 10.0


class Cause(TypedDict):
    """Why a user is deferred. `is_behind`: a bump left the user out or could not move them.

    `status` shows that until they are moved, and the version is tried on their databases first.
    """

    waiting_for: str
    detail: str
    is_behind: bool


@step()
def defer(version: str, causes: dict[str, Cause], is_accepted: bool = False) -> None:
    """Give each of these users one pending deferral to the version, with a drain of its own. Idempotent.

    Unless `is_accepted`, the version awaits acceptance from then on: by the bump itself, or by the first user who is moved to it. It has passed the
    gate, so that an earlier rejection is dropped; that of an accepted version too, unless it left behind all who are not moved yet.
    """
    journal = current_host().journal
    if causes and not is_accepted:
        rejections.unreject(journal, version)
        facts.write(journal, TO_BE_ACCEPTED, version)
    elif is_accepted and (not causes or not all(cause["is_behind"] for cause in causes.values())):
        rejections.unreject(journal, version)
    for user, cause in causes.items():
        if cause["is_behind"]:
            left_behind.note(journal, user, version, cause["waiting_for"], cause["detail"])
            rejections.note_untried(journal, version, [user])
        else:
            left_behind.forget(journal, user)
    put_off(version, {user: cause["waiting_for"] for user, cause in causes.items()})
    with journal.transaction() as connection:
        for user, cause in causes.items():
            connection.execute(
                "update deferrals set waiting_for = ?, detail = ? where user = ?",
                (cause["waiting_for"], cause["detail"], user),
            )


def put_off(version: str, waiting: dict[str, str]) -> None:
    """Defer users as `defer` does, to a version that is accepted."""
    host = current_host()
    for user, waiting_for in waiting.items():
        pending = deferral_records.deferral(host.journal, user)
        run = pending.run if pending is not None and host.journal.run(pending.run).status == "running" else None
        run = run or drain_of(host, user)
        deferral_records.put_deferral(
            host.journal, user, run, version, waiting_for, schedule.window_opens(host.settings, time.time())
        )
        wake(run)


def drain_of(host: Host, user: str, *, make: bool = True) -> str:
    """Return the drain of a user's deferral: one that runs but is not on record, as after a crash between the two, else a new one.

    Without `make`: "" if none runs.
    """
    found = host.journal.runs("workflow = 'drain' and status = 'running' and args = ?", json.dumps({"user": user}))
    if found or not make:
        return found[0].id if found else ""
    return new_run(host.journal, "drain", {"user": user}) or ""


def wake(run: str) -> None:
    """Make a sleeping run due now."""
    host = current_host()
    wake_run(host.journal, run)
    host.hint(run)


class Pending(TypedDict):
    """A pending deferral as a drain needs it. `version`: the present one."""

    user: str
    version: str
    target: str


@step()
def pending_deferrals(users: list[str]) -> list[Pending]:
    """Return the pending deferrals of these users, or of all. Only reads."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    return [
        {"user": entry.user, "version": slots.effective(versions_dir, entry.user) or "", "target": entry.version}
        for entry in deferral_records.deferrals(host.journal)
        if (not users or entry.user in users) and not entry.revoked
    ]


@step(wording=("detail",))
def note_wait(user: str, waiting_for: str, detail: str, ask_again: float) -> float:
    """Record in the deferral why its user was not moved. Return when to check again, which is never at once. A repeat counts one more check."""
    host = current_host()
    now = time.time()
    at = ask_again if ask_again > now + 1 else now + host.settings.deferral.max_check_interval_s
    is_held = waiting_for == left_behind.HELD and not detail.startswith(HELD_BY)
    if is_held and (pending := deferral_records.deferral(host.journal, user)) is not None:
        left_behind.note(host.journal, user, pending.version, waiting_for, detail)
    deferral_records.note_check(host.journal, user, waiting_for, detail, at)
    long_waits.note(host.journal, user, waiting_for, detail)
    return at


@step()
def note_yielded(user: str) -> float:
    """Record that a drain gave way to a more urgent run. Return when to check again, which is soon. A repeat counts one more check."""
    host, at = current_host(), time.time() + RETRY_AFTER_YIELD_SECONDS
    detail = "gave way to a more urgent run, such as a rollback"
    deferral_records.note_check(host.journal, user, "host_busy", detail, at)
    long_waits.note(host.journal, user, "host_busy", detail)
    return at


@step()
def settle_deferral(user: str) -> None:
    """End a user's deferral and wake its drain, revoked or not, which then ends as well. Idempotent."""
    host = current_host()
    left_behind.forget(host.journal, user)
    wishes.fulfill(host.journal, user)
    pending = deferral_records.deferral(host.journal, user)
    if pending is not None:
        deferral_records.drop_deferral(host.journal, user)
        long_waits.forget(host.journal, user)
        if pending.run != current_run():
            with host.journal.transaction() as connection:
                connection.execute("update runs set held = null where id = ?", (pending.run,))
            wake(pending.run)


@step()
def awaits_acceptance(version: str) -> bool:
    """Return whether a version was the last to pass the gate and no user could be moved to it yet. Only reads."""
    return bool(facts.read(current_host().journal, TO_BE_ACCEPTED) == version)
