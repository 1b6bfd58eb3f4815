"""The steps of deferrals: users who were busy, each with a run of their own that moves them later."""

import json
import time
from typing import TypedDict

from t3flow.deferrals import left_behind, long_waits
from t3flow.engine.runs import new_run
from t3flow.engine.step import current_run, step
from t3flow.host import slots
from t3flow.host.host import Host, this_host
from t3flow.host.pruning import TO_BE_ACCEPTED
from t3flow.host.records import deferral_records, facts, rejections
from t3flow.settings import schedule

YIELDED_SECONDS = 10.0


class Cause(TypedDict):
    """Why a user is deferred. `is_behind`: a bump left them out or could not move them, which stands in `status` until they are moved, and the
    target is tried on their databases first.
    """

    waiting_for: str
    detail: str
    is_behind: bool


@step()
def defer(target: str, causes: dict[str, Cause], is_accepted: bool = False) -> None:
    """Sees that each of these users has one pending deferral to the target, with a drain of its own. Repeating it finds them there.

    Unless it is accepted already, the target awaits acceptance from then on: by the bump itself, or by the first who is moved to it. It has passed
    the gate, so that a rejection of earlier holds no deferral back.
    """
    journal = this_host().journal
    if causes and not is_accepted:
        rejections.unreject(journal, target)
        facts.write(journal, TO_BE_ACCEPTED, target)
    for user, cause in causes.items():
        if cause["is_behind"]:
            left_behind.note(journal, user, target, cause["waiting_for"], cause["detail"])
            rejections.note_untried(journal, target, [user])
        else:
            left_behind.forget(journal, user)
    put_off(target, {user: cause["waiting_for"] for user, cause in causes.items()})
    with journal.transaction() as connection:
        for user, cause in causes.items():
            connection.execute(
                "update deferrals set waiting_for = ?, detail = ? where user = ?",
                (cause["waiting_for"], cause["detail"], user),
            )


def put_off(target: str, waiting: dict[str, str]) -> None:
    """As `defer`, to a version that is accepted."""
    host = this_host()
    for user, waiting_for in waiting.items():
        pending = deferral_records.deferral(host.journal, user)
        run = pending.run if pending is not None and host.journal.run(pending.run).status == "running" else None
        run = run or drain_of(host, user)
        deferral_records.put_deferral(
            host.journal, user, run, target, waiting_for, schedule.window_opens(host.settings, time.time())
        )
        wake(run)


def drain_of(host: Host, user: str, *, make: bool = True) -> str:
    """The run that sees a user's deferral through: one that is under way and on no record, as after a kill between the two, else a new one.

    Unless it is to `make` one, "" where none is under way.
    """
    found = host.journal.runs("workflow = 'drain' and status = 'running' and args = ?", json.dumps({"user": user}))
    if found or not make:
        return found[0].id if found else ""
    return new_run(host.journal, "drain", {"user": user}) or ""


def wake(run: str) -> None:
    """Makes a sleeping run due now."""
    host = this_host()
    with host.journal.transaction() as connection:
        connection.execute(
            "update runs set wake_at = ? where id = ? and status = 'running' and wake_at is not null and claim is null",
            (time.time(), run),
        )
    host.hint(run)


class Pending(TypedDict):
    """A pending deferral as a drain needs it."""

    user: str
    version: str
    target: str


@step()
def pending_deferrals(users: list[str]) -> list[Pending]:
    """The pending deferrals of these users, or of all. Only reads."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    return [
        {"user": entry.user, "version": slots.effective(versions_dir, entry.user) or "", "target": entry.version}
        for entry in deferral_records.deferrals(host.journal)
        if (not users or entry.user in users) and not entry.revoked
    ]


@step()
def note_wait(user: str, waiting_for: str, detail: str, ask_again: float) -> float:
    """Notes in the deferral why its user was not moved after all. Returns when to ask again: never at once. Repeating it counts one check more."""
    host = this_host()
    now = time.time()
    at = ask_again if ask_again > now + 1 else now + host.settings.deferral.max_check_interval_s
    if waiting_for == left_behind.HELD and (pending := deferral_records.deferral(host.journal, user)) is not None:
        left_behind.note(host.journal, user, pending.version, waiting_for, detail)
    deferral_records.note_check(host.journal, user, waiting_for, detail, at)
    long_waits.note(host.journal, user, waiting_for, detail)
    return at


@step()
def note_yielded(user: str) -> float:
    """Record that a drain freed the host for a more urgent run. Return when to ask again: soon. Repeating it counts one more check."""
    host, at = this_host(), time.time() + YIELDED_SECONDS
    detail = "a more urgent run, such as a rollback, went first"
    deferral_records.note_check(host.journal, user, "host_busy", detail, at)
    long_waits.note(host.journal, user, "host_busy", detail)
    return at


@step()
def settle_deferral(user: str) -> None:
    """Ends a user's deferral and wakes its drain, held back or not, which then finds nothing to do. Repeating it is harmless."""
    host = this_host()
    left_behind.forget(host.journal, user)
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
    """Whether a version was the last to be given to people, and nobody could be moved to it yet. Only reads."""
    return bool(facts.read(this_host().journal, TO_BE_ACCEPTED) == version)
