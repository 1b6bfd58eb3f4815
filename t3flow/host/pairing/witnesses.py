"""Whether the dispatch pairs users at all: asked of many users side by side, until one of them pairs.

One user who pairs proves the dispatch, whatever happens to others. Only if none of all users that can be asked pairs, the dispatch is at fault.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from t3flow import T3flowError
from t3flow.engine.journal import JournalError
from t3flow.engine.step import check_interrupt, pause
from t3flow.host import manageable, own_activity, pairing_results, slots
from t3flow.host.host import Host
from t3flow.host.pairing import probe as pairing_probe

WIDTH = 8
"""So many users are asked at a time once one has failed: each takes a minting, 300 MB and some seconds of a core."""
ALONE_SECONDS = 1.5
"""A first user who has not paired by then is no longer waited for alone."""
AGAIN_SECONDS, AGAIN_PAUSE_SECONDS = 3.0, 0.3
"""Where there are few users, each is asked again until then: t3's minting waits for no lock."""
BEFORE_SECONDS, RESTARTED_SECONDS, EACH_SECONDS = 60.0, 30.0, 600.0
"""The longest that asking takes: before anything is done, while a restarted user waits for the answer, and when all are to answer."""
SHOWN = 2
WAIT_SECONDS = 0.2


class BrokenBefore(T3flowError):
    """A user does not pair after a restart, and did not before it, while others do: that is no build's doing."""


class DispatchAtFault(T3flowError):
    """A user does not pair after a restart, and neither does one who was not restarted: that is not the build's doing."""


class Witness(NamedTuple):
    """A user with a running server. `counts`: that this user cannot pair speaks against the dispatch; else it only proves it by pairing."""

    user: str
    counts: bool


def against_dispatch(
    host: Host,
    version: str,
    besides: Collection[str],
    without: Collection[str] = (),
    most_seconds: float = RESTARTED_SECONDS,
    began: float | None = None,
) -> str:
    """Return "" if some user pairs, or none can be asked; else one line: which users cannot pair, and why. Raises ServiceError, UserMapError.

    Users on `version` ("": no version is in question) and those in `without` prove the dispatch by pairing and never speak against it. Nor do
    those who could not pair before `began`, when a restart that is under way did. Those in `besides` are not asked.
    """
    asked = witnesses(host, version, besides, {*without, *_broken_at(host, began)})
    if not any(each.counts for each in asked):
        return ""
    paired, failed = ask(host, [each.user for each in asked], most_seconds)
    counted = {each.user: failed[each.user] for each in asked if each.counts and each.user in failed}
    if paired or not counted:
        return ""
    shown = [f"{user} cannot pair ({why})" for user, why in list(counted.items())[:SHOWN]]
    rest = len(asked) - len(shown)
    return " and ".join(shown) + (f", nor can {rest} more" if rest else "")


def witnesses(host: Host, version: str, besides: Collection[str], without: Collection[str]) -> list[Witness]:
    """Return the managed users with a running server: first those whose failure counts, and of these first those who paired when last seen."""
    names = [entry.name for entry in host.user_map().users if entry.name not in besides]
    known = pairing_results.pairings(host.journal)
    found: list[tuple[bool, bool, Witness]] = []
    for user, (server, why) in manageable.survey(host, names).items():
        if why or not server.active:
            continue
        runs = pairing_probe.version_that_runs(host, user, server.main_pid) if server.main_pid else None
        led_to = slots.effective(host.settings.paths.versions_dir, user)
        is_parted = runs is not None and runs != led_to  # then it may not pair until its next restart
        counts = not is_parted and user not in without and not (version and runs == version)
        found.append((not counts, user in known and bool(known[user]["reason"]), Witness(user, counts)))
    return [each for _, _, each in sorted(found, key=lambda each: each[:2])]


def _broken_at(host: Host, began: float | None) -> list[str]:
    """Return the users who could not pair at a time, and not since; none for None."""
    if began is None:
        return []
    known = pairing_results.pairings(host.journal)
    return [user for user, last in known.items() if last["reason"] and last["since"] < began]


def running(host: Host, version: str, besides: Collection[str]) -> list[str]:
    """Return the managed users whose server runs a version. Raises ServiceError, UserMapError."""
    names = [entry.name for entry in host.user_map().users if entry.name not in besides]
    return [
        user
        for user, (server, why) in manageable.survey(host, names).items()
        if not why and server.active and server.main_pid
        if pairing_probe.version_that_runs(host, user, server.main_pid) == version
    ]


def some_who_pair(host: Host, users: list[str], enough: int) -> list[str]:
    """Return up to `enough` of these users who pair now."""
    return ask(host, users, RESTARTED_SECONDS, enough=enough)[0]


def ask(
    host: Host,
    users: list[str],
    most_seconds: float,
    *,
    enough: int = 1,
    probe: Callable[[Host, str], None] = pairing_probe.probe,
) -> tuple[list[str], dict[str, str]]:
    """Ask users whether they pair, up to WIDTH at a time, until `enough` do. Return those who pair, and user → why not.

    The first is asked alone. A user whose port another process holds says nothing. What is still under way at the end ends by itself: a pairing
    more, as a browser's.
    """
    answers: SimpleQueue[tuple[str, T3flowError | None]] = SimpleQueue()
    waiting, under_way = deque(users), set[str]()
    paired: list[str] = []
    failed: dict[str, str] = {}
    began = time.monotonic()
    alone_until = began
    while (waiting or under_way) and time.monotonic() - began < most_seconds:
        if waiting and len(under_way) < WIDTH and (not under_way or time.monotonic() >= alone_until):
            user = waiting.popleft()
            under_way.add(user)
            threading.Thread(target=_ask_one, args=(host, user, probe, answers), daemon=True).start()
            alone_until = max(alone_until, began + ALONE_SECONDS) if not failed else began
            continue
        check_interrupt()
        try:
            user, error = answers.get(timeout=WAIT_SECONDS)
        except Empty:
            continue
        under_way.discard(user)
        if isinstance(error, JournalError):
            raise error
        if error is None:
            paired.append(user)
            failed.pop(user, None)
            if len(paired) >= enough:
                break
        elif not isinstance(error, pairing_probe.PortTaken):
            failed[user] = str(error)
            alone_until = began
        if not waiting and not under_way and time.monotonic() - began < min(AGAIN_SECONDS, most_seconds):
            pause(AGAIN_PAUSE_SECONDS)
            waiting.extend(failed)
    return paired, failed


def _ask_one(
    host: Host,
    user: str,
    probe: Callable[[Host, str], None],
    answers: "SimpleQueue[tuple[str, T3flowError | None]]",
) -> None:
    try:
        probe(host, user)
        answers.put((user, None))
    except T3flowError as error:
        answers.put((user, error))
    except Exception as error:  # a thread that ends without an answer would be waited for
        answers.put((user, pairing_probe.NotPaired(f"{type(error).__name__}: {error}")))


def pairs_now(host: Host, user: str) -> str:
    """Return why a user cannot pair now, or "": noted, so that a restart is not blamed for what was so before it. Raises JournalError."""
    return note_now(host, [user], AGAIN_SECONDS + pairing_probe.PAIR_SECONDS).get(user, "")


def note_now(
    host: Host, users: list[str], most_seconds: float, probe: Callable[[Host, str], None] = pairing_probe.probe
) -> dict[str, str]:
    """Ask each of these users whether they pair, and note it. Return user → why not. A user without an answer in time is left as noted.

    Where others pair, those who do not are asked once more: t3's minting waits for no lock. Raises JournalError.
    """
    began = time.monotonic()
    paired, failed = ask(host, users, most_seconds, enough=len(users), probe=probe)
    if paired and failed and (left := most_seconds - (time.monotonic() - began)) > 0:
        again, _ = ask(host, [*failed], left, enough=len(failed), probe=probe)
        paired += again
        failed = {user: why for user, why in failed.items() if user not in again}
    known = pairing_results.pairings(host.journal)
    for user in users:
        is_noted_bad = user in known and bool(known[user]["reason"])
        if user in failed or (user in paired and is_noted_bad):
            pairing_results.note_pairing(host.journal, user, failed.get(user, ""))
    return failed


def broken_before(host: Host, user: str) -> str:
    """Return why a user whose server is being restarted could not pair before it was stopped either; "" if they could, or it is not known."""
    known = pairing_results.pairings(host.journal).get(user)
    begun = own_activity.begun(host.journal, user)
    return str(known["reason"]) if known and known["reason"] and begun is not None and known["since"] < begun else ""


def excuse(host: Host, user: str) -> str:
    """Return why it is no fault of a restart that a user does not pair: they did not before, or no user at all does; "" where it may be one."""
    return broken_before(host, user) or against_dispatch(host, "", [user], began=own_activity.begun(host.journal, user))


def other_fault(host: Host, user: str, version: str, error: pairing_probe.NotPaired) -> T3flowError | None:
    """Return what else than `version` is at fault where a restarted user does not pair; None where nothing else is known to be."""
    before = broken_before(host, user)
    if against := against_dispatch(host, version, [user], began=own_activity.begun(host.journal, user)):
        return DispatchAtFault(
            f"{error}; but users who were not restarted cannot pair either: {against}; the dispatch is at fault"
        )
    with suppress(T3flowError):
        if before:
            pairing_probe.check_running(host, user, version)
            return BrokenBefore(f"{user} cannot pair on {version} ({error}), and could not before ({before})")
    return None
