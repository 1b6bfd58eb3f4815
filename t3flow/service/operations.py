"""What operators can ask of t3flow, on the command line and on the page: each operation is recorded with the person, and done once.

An operation is recorded before it is done. A repeat under the same id, as after a kill of the consumer, finds the record: a run that it started has
an id made from it, and the other operations set what is set already. All raise T3flowError with one line for the person.
"""

import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from t3flow import T3flowError
from t3flow.engine.journal import Journal, JournalError, NoSuchRun
from t3flow.engine.runs import new_run, send_signal, wake_run
from t3flow.host import freeze as freezing
from t3flow.host.records import actions, deferral_records, facts, holds
from t3flow.host.records.actions import Action, Actor
from t3flow.settings.dates import future_moment
from t3flow.settings.load import Settings
from t3flow.settings.user_map import read_user_map

MOST_NAMES = 8


class Refused(T3flowError):
    """An operation that the state of the host rules out. The text says why and what to do."""

    exit_code = 2


@dataclass
class Desk:
    """Where one operation of one actor is done. `hint` asks the engine to advance a run now; it only saves time."""

    settings: Settings
    journal: Journal
    actor: Actor
    hint: Callable[[str], None] = lambda run_id: None
    action_id: str = field(default_factory=lambda: secrets.token_hex(16))
    run: str = ""
    """The run that the operation started."""

    def once(
        self, action: str, arguments: dict[str, Any], do: Callable[[Action], str], *, workflow: str = "", run: str = ""
    ) -> str:
        """Do an action and record it with its result, a sentence. `workflow`: it starts a run; `run`: it concerns one.

        Raises T3flowError, which is recorded as the result. A repeat under the same id returns the recorded result.
        """
        self.run = run
        if workflow:
            self.run = f"{workflow}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{self.action_id[:6]}"
        known = {key: value for key, value in arguments.items() if value not in (None, "", [], False)}
        entry = actions.begin(self.journal, self.action_id, self.actor, action, known, self.run)
        self.run = entry.run_id
        if entry.result is not None:
            return entry.result
        try:
            result = do(entry)
        except JournalError:  # no result: a repeat under the same id does it
            raise
        except T3flowError as error:
            actions.finish(self.journal, entry.id, f"refused: {error}")
            raise
        except OSError as error:
            actions.finish(self.journal, entry.id, f"failed: {error.filename or action}: {error.strerror}")
            raise
        actions.finish(self.journal, entry.id, result)
        return result


def unknown_user(settings: Settings, user: str) -> str:
    """Return that a user is not in the user map, with those who are; "" for one who is. Raises UserMapError."""
    known = [entry.name for entry in read_user_map(settings.paths.user_map).users]
    if user in known:
        return ""
    some = ", ".join(known[:MOST_NAMES]) + (", …" if len(known) > MOST_NAMES else "")
    return f"{user!a} is not in {settings.paths.user_map}, which has {some or 'no users'}"


def require_user(settings: Settings, user: str) -> None:
    """Raise Refused for a user who is not in the user map."""
    if problem := unknown_user(settings, user):
        raise Refused(problem)


# The switches -------------------------------------------------------------------------------------------------------


def freeze(desk: Desk, reason: str) -> str:
    """Freeze tracking. A no-op while it is frozen."""

    def do(entry: Action) -> str:
        freezing.freeze(desk.settings, desk.journal, reason, by=desk.actor.name)
        return "frozen"

    return desk.once("freeze", {"reason": reason}, do)


def unfreeze(desk: Desk) -> str:
    """Resume tracking."""

    def do(entry: Action) -> str:
        was = freezing.is_frozen(desk.settings)
        freezing.unfreeze(desk.settings, desk.journal)
        return "No longer frozen; deferred users are checked at once" if was else "Was not frozen"

    return desk.once("unfreeze", {}, do)


def pin(desk: Desk, version: str | None) -> str:
    """Pin the host to a version; None follows the tag again. Return whether it was pinned before, as a sentence."""

    def do(entry: Action) -> str:
        was = facts.read(desk.journal, "pin")
        facts.write(desk.journal, "pin", version)
        if version:
            return f"Pinned to {version}: the next bump moves there, and none moves elsewhere until: t3flow unpin"
        return f"{'No longer' if was else 'Was not'} pinned; t3flow follows the tag {desk.settings.track.tag}"

    return desk.once("pin" if version else "unpin", {"version": version}, do)


# Users --------------------------------------------------------------------------------------------------------------


def hold(desk: Desk, user: str, until: str | None, reason: str) -> str:
    """Keep a user on their version until released, or until a date as people type it."""

    def do(entry: Action) -> str:
        require_user(desk.settings, user)
        at = future_moment(desk.settings, until) if until else None
        text = reason.encode(errors="replace").decode()  # a terminal may have another encoding
        holds.put(desk.journal, user, at, " ".join(text.split()), desk.actor.name)
        _wake_drain(desk, user)
        ends = (
            f"until {until}; to end that earlier: t3flow release {shlex.quote(user)}"
            if until
            else f"until: t3flow release {shlex.quote(user)}"
        )
        return f"{user} stays on their version {ends}"

    return desk.once("hold", {"user": user, "until": until, "reason": reason}, do)


def release(desk: Desk, user: str) -> str:
    """End the hold of a user, who need not be in the user map any more."""

    def do(entry: Action) -> str:
        if holds.drop(desk.journal, user):
            _wake_drain(desk, user)
            return f"{user} is no longer held and moves with the next drain or bump"
        require_user(desk.settings, user)
        return f"{user} was not held"

    return desk.once("release", {"user": user}, do)


def _wake_drain(desk: Desk, user: str) -> None:
    """Have a user's deferral checked now."""
    if (pending := deferral_records.deferral(desk.journal, user)) is not None:
        wake_run(desk.journal, pending.run)
        desk.hint(pending.run)


def set_revoked(desk: Desk, user: str, *, revoked: bool) -> str:
    """Take a user's deferral out of the queue, or put it back; the consumer acts on it within a second."""

    def do(entry: Action) -> str:
        pending = [each.user for each in deferral_records.deferrals(desk.journal)]
        if user not in pending:
            raise Refused(f"{user!a} has no pending deferral; pending: {', '.join(pending) or 'none'}")
        deferral_records.set_revoked(desk.journal, user, revoked)
        if revoked:
            return f"The deferral of {user} is revoked; to put it back: t3flow deferrals restore {shlex.quote(user)}"
        return f"The deferral of {user} is back in the queue"

    return desk.once("deferrals revoke" if revoked else "deferrals restore", {"user": user}, do)


# Runs ---------------------------------------------------------------------------------------------------------------


def start_run(
    desk: Desk,
    workflow: str,
    args: dict[str, Any],
    *,
    priority: int = 0,
    freeze_because: str = "",
    recorded: dict[str, Any] | None = None,
) -> str:
    """Start a run and return its id. `recorded`: the arguments for the record, where they are not the run's.

    `freeze_because`: freeze tracking for this reason before the run is journaled, so that the freeze holds when this returns.
    """

    def do(entry: Action) -> str:
        if freeze_because:
            freezing.freeze(desk.settings, desk.journal, freeze_because, by=desk.actor.name)
        new_run(desk.journal, workflow, args, priority=priority, run_id=entry.run_id)
        desk.hint(entry.run_id)
        return f"started {entry.run_id}"

    action = "drain" if workflow == "drain_now" else workflow
    desk.once(action, args if recorded is None else recorded, do, workflow=workflow)
    return desk.run


def drain(desk: Desk, users: list[str]) -> str:
    """Try the deferrals of these users, or of all, now. Return the run."""
    for user in users:
        require_user(desk.settings, user)
    args = {"users": users, "ignore_processes": [], "dry_run": False}
    return start_run(desk, "drain_now", args)


def rollback(desk: Desk, users: list[str], to: str | None, why_not: Callable[[str], str]) -> str:
    """Freeze tracking and roll back these users, or all. Return the run. `why_not`: why no user can go back to a version.

    A version that no user can go back to is refused by its run: that is no reason to freeze, or to stop a run in progress.
    """
    from t3flow.rollout.bake import ROLLBACK_PRIORITY
    from t3flow.rollout.rollback import freeze_reason

    for user in users:
        require_user(desk.settings, user)
    args = {"users": users, "to": to}
    if to is not None and why_not(to):
        return start_run(desk, "rollback", args)
    return start_run(desk, "rollback", args, priority=ROLLBACK_PRIORITY, freeze_because=freeze_reason(users, to))


def cancel(desk: Desk, run_id: str) -> str:
    """Ask a run to stop at its next safe point. Raises Refused if it has ended, or if there is no such run."""

    def do(entry: Action) -> str:
        try:
            found = desk.journal.run(run_id)
        except NoSuchRun as error:
            raise Refused(str(error)) from error
        if found.status != "running":
            raise Refused(f"{run_id} has ended already: {found.outcome}")
        send_signal(desk.journal, run_id, "cancel")
        desk.hint(run_id)
        return f"{run_id} is asked to stop at its next safe point; see t3flow show {run_id}"

    return desk.once("cancel", {"run": run_id}, do, run=run_id)
