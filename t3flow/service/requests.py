"""Requests of the page: small files in a folder of its account, which the consumer reads as hostile input and carries out as the command line would.

1. List the folder, at most MOST_LISTED entries a look. Remove what is no request; leave what is still being written.
2. Read a request: its name is its id, and its fields are those of its action.
3. Check the identity against `web.admins`. The consumer cannot verify the identity itself; see docs/security.md.
4. Record the action, do it through `operations`, record the result, remove the file.

Killed between any two of these, the next consumer repeats from 2. The record says what was done; what may have been done without a record is repeated
only while that is harmless: soon, and if no later action contradicts it.
"""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.journal import JournalError
from t3flow.host import state_dir
from t3flow.host.host import Host
from t3flow.host.records import actions
from t3flow.host.records.actions import DENIED, PAGE, Actor
from t3flow.host.spool import BadDocument, read_document, text_of
from t3flow.service import operations
from t3flow.service.operations import Desk
from t3flow.t3.versions import InvalidVersion, parse

NAME = re.compile(r"([0-9a-f]{32})\.json")
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")
MOST_LISTED, MOST_DONE, MOST_DENIALS = 512, 8, 20
"""How many entries one look lists, how many requests it carries out, and how many that are denied are recorded in a minute."""
UNFINISHED_SECONDS = 60.0
LIFETIME_SECONDS = 600.0
"""An older request is not carried out: the page told its person long ago that nothing happened."""
LOG_SECONDS = 60.0
LONGEST = {"identity": 256, "user": 239, "run": 200, "version": 128, "reason": 500, "until": 40}
FIELDS = {
    "freeze": {"reason"},
    "unfreeze": set[str](),
    "drain": {"user"},
    "cancel": {"run"},
    "rollback": {"user", "version"},
    "hold": {"user", "reason", "until"},
    "release": {"user"},
}
"""Action → the fields that it may have beside those of every request."""
NEEDED = {"cancel": "run", "hold": "user", "release": "user"}
CONTRADICTS = {
    "freeze": ("unfreeze",),
    "unfreeze": ("freeze", "rollback", "restore"),
    "rollback": ("unfreeze",),
    "hold": ("release",),
    "release": ("hold",),
}
"""Action → the actions after which a repeat of it would undo what a person decided since."""


class Requests:
    """The folder of the page's requests. Call `look` often; it costs one listing of an empty folder."""

    def __init__(self, host: Host, hint: Callable[[str], None]) -> None:
        self._host = host
        self._hint = hint
        self._folder = host.settings.paths.state_dir / state_dir.REQUESTS
        self._said = -LOG_SECONDS
        self._unsaid = 0
        self._denials: list[float] = []

    def look(self) -> bool:
        """Carry out the requests that are there; return whether there may be more. Raises JournalError: all is tried again then."""
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False  # the doctor says so
        try:
            names, is_full = self._listed(folder)
            for name in names[:MOST_DONE]:
                self._take(folder, name)
            return is_full or len(names) > MOST_DONE
        finally:
            os.close(folder)

    def _listed(self, folder: int) -> tuple[list[str], bool]:
        """Return the names of requests, the oldest first, and whether the folder has more entries than were looked at."""
        found: list[tuple[float, str]] = []
        count = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                count += 1
                if count > MOST_LISTED:
                    break
                with suppress(OSError):
                    changed = entry.stat(follow_symlinks=False).st_mtime
                    if NAME.fullmatch(entry.name):
                        found.append((changed, entry.name))
                    elif not UNFINISHED.fullmatch(entry.name) or time.time() - changed > UNFINISHED_SECONDS:
                        self._remove(folder, entry.name, "it is no request")
        return [name for _, name in sorted(found)], count > MOST_LISTED

    def _remove(self, folder: int, name: str, problem: str) -> None:
        """Remove an entry, and log it unless others were logged within the last minute."""
        try:
            os.unlink(name, dir_fd=folder)
        except OSError:
            with suppress(OSError):
                os.rmdir(name, dir_fd=folder)
        self._unsaid += 1
        if time.monotonic() - self._said >= LOG_SECONDS:
            logger.warning(
                "{} in {} was removed: {} ({} since the last such line)",
                ascii(name),
                self._folder,
                problem,
                self._unsaid,
            )
            self._said, self._unsaid = time.monotonic(), 0

    def _take(self, folder: int, name: str) -> None:
        """Carry out one request and remove it."""
        action_id = name.removesuffix(".json")
        known = actions.find(self._host.journal, action_id)
        if known is None or known.result is None:
            try:
                document = read_document(folder, name, state_dir.page_ids()[0])
                request = _valid(document, action_id)
            except FileNotFoundError:
                return
            except BadDocument as error:
                self._remove(folder, name, str(error))
                return
            if not self._is_denied_silently(request):
                self._carry_out(action_id, request, is_repeat=known is not None)
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)

    def _may_act(self, request: "Request") -> bool:
        return request.identity in self._host.settings.web.admins

    def _is_denied_silently(self, request: "Request") -> bool:
        """Return whether a request is denied, as many were within the last minute, so that it is not recorded."""
        if self._may_act(request):
            return False
        now = time.monotonic()
        self._denials = [at for at in self._denials if now - at < LOG_SECONDS]
        if len(self._denials) >= MOST_DENIALS:
            return True
        self._denials.append(now)
        return False

    def _carry_out(self, action_id: str, request: "Request", *, is_repeat: bool) -> None:
        """Do what a request asks for, if its identity may, and record how it ended."""
        actor = Actor(PAGE, request.identity)
        desk = Desk(self._host.settings, self._host.journal, actor, self._hint, action_id)
        problem = request.problem or (_contradiction(desk, request.action) if is_repeat else "")
        if not self._may_act(request):
            problem = f"{DENIED}: {request.identity} is not in web.admins"
        try:
            if problem:
                raise operations.Refused(problem)
            result = _OPERATIONS[request.action](desk, self._host, request.given)
        except JournalError:
            raise
        except T3flowError as error:
            result = str(error) if str(error).startswith(DENIED) else f"refused: {error}"
            self._record(desk, request, result)
        except Exception as error:  # it must not come back for ever, nor hold up the others
            logger.opt(exception=not isinstance(error, OSError)).error("a request of the page failed: {}", error)
            result = "failed: see the log of t3flow"
            self._record(desk, request, result)
        given = " ".join(request.given.values())
        logger.info("{} asked on the page: {} {}: {}", request.identity, request.action, given, result)

    def _record(self, desk: Desk, request: "Request", result: str) -> None:
        """Record how a request ended that was not carried out. The first result of an action stays."""
        actions.begin(desk.journal, desk.action_id, desk.actor, request.action, request.given, "")
        actions.finish(desk.journal, desk.action_id, result)


class Request(NamedTuple):
    """A request as its document has it. `problem`: why it cannot be carried out although it is written well, or ""."""

    identity: str
    action: str
    given: dict[str, str]
    problem: str


def _valid(document: dict[str, Any], action_id: str) -> Request:
    """Return what a document asks for. Raises BadDocument."""
    action = text_of(document, "action", 20)
    if document.get("schema") != 1 or document.get("id") != action_id or action not in FIELDS:
        raise BadDocument("its schema, id or action is unknown")
    if unknown := set(document) - {"schema", "id", "at", "identity", "action"} - FIELDS[action]:
        raise BadDocument(f"{action} has no {min(unknown)[:20]!a}")
    identity = text_of(document, "identity", LONGEST["identity"])
    if not identity:
        raise BadDocument("it names no identity")
    given = {key: text for key in sorted(FIELDS[action]) if (text := text_of(document, key, LONGEST[key]))}
    if (needed := NEEDED.get(action)) and needed not in given:
        raise BadDocument(f"{action} needs a {needed}")
    problem = ""
    try:
        at = datetime.fromisoformat(text_of(document, "at", 40)).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise BadDocument("its time cannot be read") from error
    try:
        if "version" in given:
            given["version"] = str(parse(given["version"]))
    except InvalidVersion as error:
        problem = str(error)
    if abs(time.time() - at) > LIFETIME_SECONDS:
        problem = (
            f"it was asked more than {LIFETIME_SECONDS / 60:.0f} minutes ago, while no consumer was running; ask again"
        )
    return Request(identity, action, given, problem)


def _contradiction(desk: Desk, action: str) -> str:
    """Return why an action that may have been done before a kill is not repeated, or ""."""
    known = actions.find(desk.journal, desk.action_id)
    since = actions.later(desk.journal, known, CONTRADICTS.get(action, ())) if known is not None else []
    return f"not repeated after a kill: {since[0].by} asked for {since[0].action} since" if since else ""


def _why_not(host: Host) -> Callable[[str], str]:
    from t3flow.rollout.rollback import why_not_to

    return lambda version: why_not_to(host, version)


def _users(given: dict[str, str]) -> list[str]:
    return [given["user"]] if "user" in given else []


_OPERATIONS: dict[str, Callable[[Desk, Host, dict[str, str]], str]] = {
    "freeze": lambda desk, host, given: operations.freeze(desk, given.get("reason", "")),
    "unfreeze": lambda desk, host, given: operations.unfreeze(desk),
    "drain": lambda desk, host, given: operations.drain(desk, _users(given)),
    "cancel": lambda desk, host, given: operations.cancel(desk, given["run"]),
    "rollback": lambda desk, host, given: operations.rollback(
        desk, _users(given), given.get("version"), _why_not(host)
    ),
    "hold": lambda desk, host, given: operations.hold(desk, given["user"], given.get("until"), given.get("reason", "")),
    "release": lambda desk, host, given: operations.release(desk, given["user"]),
}
