"""Which users t3flow can manage: their server starts through the launcher, as the user, on the base dir of the settings.

An unmanaged user keeps their version: they get their own link before the default moves, every workflow skips them with the reason, and their problems
fail, freeze or reject nothing for others. The decision uses only facts of systemd and the kernel.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from t3flow import T3flowError
from t3flow.host.accounts import is_root
from t3flow.host.host import Host, uid_of
from t3flow.host.processes import listing, proc
from t3flow.host.services.manager import ServerState
from t3flow.host.services.unit_facts import UnitFacts
from t3flow.host.slots import running_version
from t3flow.t3 import commands, files
from t3flow.t3.secrets import hide

SERVE = commands.SERVE[0]
WALK_SECONDS = 1.0
_walk = listing.SharedWalk(WALK_SECONDS)
"""One walk of /proc serves all checks within a second: 300 users in sequence do not cause 300 walks."""


class SurveyedServer(NamedTuple):
    """A user's server, and why t3flow cannot manage it ("" if it can)."""

    server: ServerState
    reason: str


def survey(host: Host, users: Iterable[str]) -> dict[str, SurveyedServer]:
    """Return the servers of these users, by one query to the service manager. Raise ServiceError."""
    names = list(users)
    states = host.services.states(names)
    host.note_facts(states)
    own = server_processes(host, names)
    return {
        user: SurveyedServer(states[user], unmanaged_reason(host, user, states[user], own.get(user, [])))
        for user in names
    }


def unmanaged_reason(host: Host, user: str, server: ServerState, serving: list[int] | None = None) -> str:
    """Return why t3flow cannot manage a user, as `REASON: REMEDY`, or "".

    `serving` are the processes that serve the user's base dir, if they are already known.
    """
    if is_root() and uid_of(user) is None:
        return f"account {user} does not exist on this host: create it, or remove the line from the user map"
    if server.facts is not None and (problem := _unit_problem(host, user, server, server.facts)):
        return problem
    serving = server_processes(host, [user]).get(user, []) if serving is None else serving
    others = set(serving) - {server.main_pid}  # usually none: the manager need not list the unit's processes
    if others and (foreign := sorted(others - {*_unit_pids(host, user, server)})):
        words = " ".join(proc.command_line(foreign[0]))
        return (
            f"process {foreign[0]} ({printable(words)[:80]}) also serves {host.base_dir(user)}, outside {server.unit}: "
            f"end it for good (see systemctl --user --machine={user}@ list-units), or remove the user from the user map"
        )
    return ""


def missing_state_reason(host: Host, user: str) -> str:
    """Return that a user's base dir does not exist (yet, or because the home is not mounted), or ""."""
    with suppress(T3flowError):
        base_dir = host.base_dir(user)
        try:
            os.stat(base_dir)
        except (FileNotFoundError, NotADirectoryError):
            return f"{base_dir} does not exist: the first start of the server creates it, or the home is not mounted"
        except OSError:
            return ""
    return ""


def identity_problem(facts: UnitFacts, user: str) -> str:
    """Return why a unit does not run as its user, as `REASON: REMEDY`, or ""."""
    if facts.load_state != "loaded":
        remedy = (
            f"systemctl unmask {shlex.quote(facts.unit)}"
            if facts.load_state == "masked"
            else f"install the unit of {user}"
        )
        return f"{facts.unit} is {facts.load_state or 'unknown'}: {remedy}"
    if facts.user != user and (not facts.user.isdigit() or int(facts.user) != uid_of(user)):
        return f"{facts.unit} runs as {facts.user or 'root'}: set User={user} in it"
    return ""


def _unit_problem(host: Host, user: str, server: ServerState, facts: UnitFacts) -> str:
    if problem := identity_problem(facts, user):
        return problem
    if not _starts_launcher(host, user, server, facts):
        command = printable(facts.commands[0])[:120] if facts.commands else "nothing"
        where = f" ({', '.join(facts.drop_ins)})" if facts.drop_ins else ""
        return f"{facts.unit} starts {command}{where}, not {host.settings.paths.launcher}: see systemctl cat '{facts.unit}'"
    base_dir = facts.option("--base-dir")
    if base_dir and "$" not in base_dir and os.path.normpath(base_dir) != os.path.normpath(host.base_dir(user)):
        return (
            f"{facts.unit} serves {printable(base_dir)}, but serve.base_dir is {host.base_dir(user)}: "
            f"see systemctl cat '{facts.unit}'"
        )
    return ""


def _starts_launcher(host: Host, user: str, server: ServerState, facts: UnitFacts) -> bool:
    """Return whether a unit's command contains the launcher, by its path or as the t3 on PATH, possibly within a shell command.

    For a wrapper, the running processes decide.
    """
    launcher = host.settings.paths.launcher
    names = (
        re.escape(str(launcher)),
        re.escape(os.path.realpath(launcher.parent) + "/" + launcher.name),
        launcher.name,
    )
    pattern = rf"(?:^|[\s;&|(\"'=])(?:{'|'.join(names)})(?=$|[\s;&|)\"'])"
    if any(re.search(pattern, command) for command in facts.commands):
        return True
    if server.main_pid is None:
        return False
    versions_dir = host.settings.paths.versions_dir
    return any(running_version.of_process(pid, versions_dir) is not None for pid in _unit_pids(host, user, server))


def _unit_pids(host: Host, user: str, server: ServerState) -> list[int]:
    """Return the processes of a user's unit, always including the main process."""
    with suppress(T3flowError):
        return [*host.services.pids_of(user, server), *([server.main_pid] if server.main_pid is not None else [])]
    return [server.main_pid] if server.main_pid is not None else []


def server_processes(host: Host, users: list[str]) -> dict[str, list[int]]:
    """Return the processes of any unit that serve these users' base dirs, by command line or by an open database: user → pids.

    Only a command line with `serve` counts: other commands, such as a minting, have the database open for a moment and serve nothing.
    """
    bases = {}
    for user in users:
        with suppress(T3flowError):
            bases[str(host.base_dir(user))] = (user, host.account(user).uid)
    of_uid: dict[int, dict[str, str]] = {}
    for base, (user, uid) in bases.items():
        of_uid.setdefault(uid, {})[base] = user
    processes = _walk.by_account()
    found: dict[str, list[int]] = {}
    for uid, base_dirs in of_uid.items():
        for pid in processes.get(uid, []):
            words = proc.command_line(pid)
            if SERVE not in words[1:]:
                continue
            served = {word.removeprefix("--base-dir=") for word in words} & base_dirs.keys()
            if len(served) < len(base_dirs):
                served |= {base for path in proc.open_files(pid) for base in _base_dirs_of(path) if base in base_dirs}
            for base in served:
                found.setdefault(base_dirs[base], []).append(pid)
    return found


def _base_dirs_of(path: str) -> Iterator[str]:
    """Yield the folders above an open database, one of which may be a base dir; none for any other file."""
    if path.endswith(files.OPEN_SUFFIXES):
        while path := path.rpartition("/")[0]:
            yield path


def printable(text: str) -> str:
    """Return a text of a unit or process on one line, without control characters and secrets, such as those in a command line."""
    return "".join(letter if letter.isprintable() else "?" for letter in hide(text))
