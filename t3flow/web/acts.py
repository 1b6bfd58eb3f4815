"""The actions of the page: what each takes, and what it will do to whom, in words that a person confirms."""

from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from t3flow.engine.journal import Journal, NoSuchRun
from t3flow.host import slots
from t3flow.host.records import catalog
from t3flow.settings.load import Settings
from t3flow.state.documents import Status
from t3flow.state.runs import activity
from t3flow.state.short import short_id
from t3flow.state.wording import names
from t3flow.t3.versions import InvalidVersion, parse

MOVING = ("bump", "drain", "drain_now")
"""Workflows that move users to a newer version."""
LONGEST = {"user": 239, "run": 200, "version": 128, "reason": 300, "until": 10}


class Invalid(Exception):
    """What was asked for cannot be done. The text says why."""


class Consequences(NamedTuple):
    """What an action will do: lines, the versions of users now and then (None: stays), and the label of the button that does it."""

    button: str
    lines: list[str]
    moves: list[tuple[str, str | None, str | None]] = []  # noqa: RUF012 - never changed


class Host(NamedTuple):
    """What an action is judged by."""

    settings: Settings
    status: Status
    journal: Journal


class Action(NamedTuple):
    """One action. `fields`: what it may take; `needs`: what it must have; `is_destructive`: it is done only from the page that names what happens."""

    name: str
    title: str
    fields: tuple[str, ...]
    needs: tuple[str, ...]
    is_destructive: bool
    consequences: Callable[[Host, dict[str, str]], Consequences]


def valid(action: Action, given: dict[str, str], host: Host) -> dict[str, str]:
    """Return the fields of an action, without empty ones. Raises Invalid for one that names nothing on this host."""
    fields = {key: given[key] for key in action.fields if given.get(key)}
    for key, value in fields.items():
        if len(value) > LONGEST[key] or not value.isprintable():
            raise Invalid(f"the {key} is longer than {LONGEST[key]} characters, or not printable")
    if missing := [key for key in action.needs if key not in fields]:
        raise Invalid(f"{action.name} needs a {missing[0]}")
    if "user" in fields and fields["user"] not in host.status["users"]:
        raise Invalid(f"there is no user {fields['user']}")
    if "run" in fields:
        _require_running(host.journal, fields["run"])
    if "version" in fields:
        _require_installed(host.settings, fields["version"])
    if "until" in fields:
        _require_ahead(fields["until"])
    return fields


def _require_running(journal: Journal, run: str) -> None:
    try:
        found = journal.run(run)
    except NoSuchRun as error:
        raise Invalid(str(error)) from error
    if found.status != "running":
        raise Invalid(f"{run} has ended already: {found.outcome}")


def _require_installed(settings: Settings, version: str) -> None:
    try:
        parse(version)
    except InvalidVersion as error:
        raise Invalid(str(error)) from error
    if version not in (known := slots.installed(settings.paths.versions_dir)):
        raise Invalid(f"{version} is not installed; installed: {', '.join(known) or 'none'}")


def _require_ahead(day: str) -> None:
    try:
        is_ahead = date.fromisoformat(day) > date.today()
    except ValueError as error:
        raise Invalid(f"{day} is no date: write for example 2026-12-24") from error
    if not is_ahead:
        raise Invalid(f"{day} is not ahead")


# What each of them does ---------------------------------------------------------------------------------------------


def _freeze(host: Host, given: dict[str, str]) -> Consequences:
    lines = ["No bump and no drain changes the host until tracking is unfrozen. Rollbacks and restores continue."]
    if run := host.status["run"]:
        lines.append(f"{short_id(run)} stops at its next safe point, unless it is a rollback or a restore.")
    if waiting := [user for user, each in host.status["users"].items() if each["deferred"]]:
        lines.append(f"Deferred users go on waiting: {names(waiting)}.")
    users = len(host.status["users"])
    lines.append(
        f"All {users} users stay on the version that they have; the default stays {host.status['default_version']}."
    )
    return Consequences("Freeze tracking", lines)


def _unfreeze(host: Host, given: dict[str, str]) -> Consequences:
    return Consequences("Unfreeze", ["Bumps run on schedule again, and deferred users are checked at once."])


def _drain(host: Host, given: dict[str, str]) -> Consequences:
    deferred = [user for user, each in host.status["users"].items() if each["deferred"]]
    users = [given["user"]] if "user" in given else deferred
    return Consequences(
        f"Try {names(users) or 'all deferrals'} now",
        [f"Of the deferred users, these are restarted if they are idle: {names(users) or 'none is deferred'}."],
    )


def _cancel(host: Host, given: dict[str, str]) -> Consequences:
    run = host.journal.run(given["run"])
    lines = [f"{run.id} stops at its next safe point. Now: {activity(host.journal, run)}."]
    if run.workflow in MOVING:
        moved = _moved(host.journal, run.id)
        rest = {user: each["assigned_version"] for user, each in host.status["users"].items() if user not in moved}
        if moved:
            lines.append(f"Users who were moved stay where they are: {_on_versions(moved)}.")
            lines.append(f"No further user is restarted, and those left are deferred: {_on_versions(rest)}.")
        else:
            lines.append("No user was moved yet, so the run is undone as a whole.")
            lines.append(f"These keep their version: {_on_versions(rest)}.")
    return Consequences(f"Cancel {short_id(run.id)}", lines)


def _on_versions(users: dict[str, str | None]) -> str:
    """Return users with their versions: "ada (0.0.24) and grace (0.0.24)"."""
    return names(f"{user} ({version or 'no version'})" for user, version in users.items()) or "none"


def _moved(journal: Journal, run: str) -> dict[str, str | None]:
    """Return the users whom a run has moved and verified, with the version."""
    moved: dict[str, str | None] = {}
    call: list[str] = []
    for event in journal.events(run):
        if event.step == "verify_user" and event.kind == "started":
            call = [str(each) for each in event.data.get("args") or []]
        elif event.step == "verify_user" and event.kind == "completed" and len(call) == 2:
            moved[call[0]] = call[1]
    return moved


def _rollback(host: Host, given: dict[str, str]) -> Consequences:
    users = [given["user"]] if "user" in given else list(host.status["users"])
    moves: list[tuple[str, str | None, str | None]] = []
    for user in users:
        now = host.status["users"][user]["assigned_version"]
        then = given.get("version") or catalog.version_before(catalog.backups(host.journal, user), now or "")
        moves.append((user, now, then or None))
    going = sum(then is not None and then != now for _, now, then in moves)
    lines = [
        "Tracking is frozen first, and stays frozen. The versions left are rejected.",
        "Each server is stopped without asking whether its user is busy: running agents end.",
        "The present databases are kept beside; a snapshot of the older version replaces them if that version does not know them.",
    ]
    if run := host.status["run"]:
        lines.append(f"{short_id(run)} ends first, at its next safe point.")
    return Consequences(f"Roll back {going} {'user' if going == 1 else 'users'}", lines, moves)


def _hold(host: Host, given: dict[str, str]) -> Consequences:
    user = given["user"]
    version = host.status["users"][user]["assigned_version"] or "the version that they have"
    return Consequences(
        f"Hold {user}",
        [f"{user} stays on {version}: bumps and drains leave them out, and say so, until they are released."],
    )


def _release(host: Host, given: dict[str, str]) -> Consequences:
    return Consequences(
        f"Release {given['user']}",
        [f"{given['user']} follows the others again; a pending deferral is checked at once."],
    )


ACTIONS = (
    Action("freeze", "Freeze tracking", ("reason",), (), True, _freeze),
    Action("unfreeze", "Unfreeze tracking", (), (), False, _unfreeze),
    Action("drain", "Try pending deferrals now", ("user",), (), False, _drain),
    Action("cancel", "Cancel a run", ("run",), ("run",), True, _cancel),
    Action("rollback", "Roll back", ("user", "version"), (), True, _rollback),
    Action("hold", "Hold a user", ("user", "until", "reason"), ("user",), False, _hold),
    Action("release", "Release a user", ("user",), ("user",), False, _release),
)
