"""Whether t3flow can manage a user's server: it has to be started through the launcher, as its user, on the base dir that the settings name.

A user for whom that is not so keeps what they have: they have a link of their own before the default moves, every workflow leaves them out
with the reason, and no trouble of theirs fails, freezes or rejects anything for others. The facts are systemd's and the kernel's.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from t3flow import T3flowError
from t3flow.host import slots
from t3flow.host.accounts import is_root
from t3flow.host.host import Host, uid_of
from t3flow.host.processes import proc
from t3flow.host.services.manager import ServerState
from t3flow.host.services.unit_facts import UnitFacts
from t3flow.t3 import commands, files

SERVE = commands.SERVE[0]
WALK_SECONDS = 1.0
_walk = proc.SharedWalk(WALK_SECONDS)
"""One walk of /proc serves all users that are looked at within a second: 300 checks one after another do not walk it 300 times."""


class Surveyed(NamedTuple):
    """A user's server, and why t3flow cannot manage it ("" where it can)."""

    server: ServerState
    why: str


def survey(host: Host, users: Iterable[str]) -> dict[str, Surveyed]:
    """The servers of these users, by one question to their manager, and who of them cannot be managed. Raises ServiceError."""
    names = list(users)
    states = host.services.states(names)
    host.note_facts(states)
    own = server_processes(host, names)
    return {user: Surveyed(states[user], why_unmanaged(host, user, states[user], own.get(user, []))) for user in names}


def why_unmanaged(host: Host, user: str, server: ServerState, serving: list[int] | None = None) -> str:
    """Why t3flow cannot manage a user, in one line, or "". `serving`: the user's processes that serve their base dir, if they are known."""
    if is_root() and uid_of(user) is None:
        return f"there is no account {user} on this host: create it, or remove the line from the user map"
    if server.facts is not None and (trouble := _unit_trouble(host, user, server, server.facts)):
        return trouble
    serving = server_processes(host, [user]).get(user, []) if serving is None else serving
    if serving and (foreign := sorted(set(serving) - {*_of_unit(host, user, server)})):
        words = " ".join(proc.command_line(foreign[0]))[:80]
        return (
            f"process {foreign[0]} ({printable(words)}) serves {host.base_dir(user)} beside {server.unit}: "
            f"end it for good (see systemctl --user --machine={user}@ list-units), or take the user out of the user map"
        )
    return ""


def has_no_state(host: Host, user: str) -> str:
    """That a user's base dir is not there (yet, or while their home is away), or "". Only whether it exists is looked at."""
    with suppress(T3flowError):
        base_dir = host.base_dir(user)
        try:
            os.stat(base_dir)
        except (FileNotFoundError, NotADirectoryError):
            return f"there is no {base_dir}: the first start of the server makes it, or the home is away"
        except OSError:
            return ""
    return ""


def identity_trouble(facts: UnitFacts, user: str) -> str:
    """Why a unit is not one that runs as its user, or ""."""
    if facts.load_state != "loaded":
        mend = f"systemctl unmask {facts.unit}" if facts.load_state == "masked" else f"install the unit of {user}"
        return f"{facts.unit} is {facts.load_state or 'not known'}: {mend}"
    if facts.user != user and (not facts.user.isdigit() or int(facts.user) != uid_of(user)):
        return f"{facts.unit} runs as {facts.user or 'root'}: set User={user} in it"
    return ""


def _unit_trouble(host: Host, user: str, server: ServerState, facts: UnitFacts) -> str:
    if trouble := identity_trouble(facts, user):
        return trouble
    if not _starts_launcher(host, user, server, facts):
        what = printable(facts.commands[0])[:120] if facts.commands else "nothing"
        where = f" ({', '.join(facts.drop_ins)})" if facts.drop_ins else ""
        return (
            f"{facts.unit} starts {what}{where}, not {host.settings.paths.launcher}: see systemctl cat '{facts.unit}'"
        )
    base_dir = facts.option("--base-dir")
    if base_dir and "$" not in base_dir and os.path.normpath(base_dir) != os.path.normpath(host.base_dir(user)):
        return (
            f"{facts.unit} serves {printable(base_dir)}, and serve.base_dir says {host.base_dir(user)}: "
            f"see systemctl cat '{facts.unit}'"
        )
    return ""


def _starts_launcher(host: Host, user: str, server: ServerState, facts: UnitFacts) -> bool:
    """Whether a unit's command names the launcher, by its path or as the t3 on PATH, itself or within a shell's words.

    A wrapper says nothing of what it starts: its server does, while it runs.
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
    return any(slots.running_version(pid, versions_dir) is not None for pid in _of_unit(host, user, server))


def _of_unit(host: Host, user: str, server: ServerState) -> list[int]:
    """The processes of a user's unit. A main process counts as one whatever its manager says at that moment."""
    with suppress(T3flowError):
        return [*host.services.pids_of(user, server), *([server.main_pid] if server.main_pid is not None else [])]
    return [server.main_pid] if server.main_pid is not None else []


def server_processes(host: Host, users: list[str]) -> dict[str, list[int]]:
    """The processes, of whatever unit, that serve the base dir of one of these users: by their words, or by a database that they have open.

    A command such as a minting has the database open for a moment, and serves nothing: it counts only where `serve` is one of its words.
    """
    bases = {}
    for user in users:
        with suppress(T3flowError):
            bases[str(host.base_dir(user))] = (user, host.account(user).uid)
    of_uid: dict[int, list[tuple[str, str]]] = {}
    for base, (user, uid) in bases.items():
        of_uid.setdefault(uid, []).append((base, user))
    there = _walk.by_account()
    found: dict[str, list[int]] = {}
    for uid, theirs in of_uid.items():
        for pid in there.get(uid, []):
            words = proc.command_line(pid)
            if SERVE not in words[1:]:
                continue
            opened: list[str] | None = None
            for base, user in theirs:
                if not _names(words, base):
                    opened = list(proc.opened(pid)) if opened is None else opened
                if _names(words, base) or _has_open(opened or [], base):
                    found.setdefault(user, []).append(pid)
    return found


def _names(words: list[str], base_dir: str) -> bool:
    return base_dir in words or f"--base-dir={base_dir}" in words


def _has_open(opened: list[str], base_dir: str) -> bool:
    """Whether a database of a base dir is among the paths that a process has open."""
    return any(path.startswith(f"{base_dir}/") and path.endswith(files.OPEN_SUFFIXES) for path in opened)


def printable(text: str) -> str:
    """A text of a unit's or a process's, on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
