"""Wishes of users: a small file of each user, which the consumer reads as hostile input, and answers in another one.

A look costs one `stat` for each user. A file that changed is read within the user's own allowance: a user who writes wishes in a loop waits longer
for answers, and costs other users nothing. After a kill, the next consumer finds in the journal which wish was carried out last.
"""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.journal import JournalError
from t3flow.engine.runs import wake_run
from t3flow.host import freeze, user_files
from t3flow.host.accounts import Account, AccountError
from t3flow.host.host import Host
from t3flow.host.records import actions, deferral_records, holds, wishes
from t3flow.host.records.actions import USER, Action, Actor
from t3flow.host.spool import BadDocument, read_document, text_of
from t3flow.service.operations import Desk, Refused
from t3flow.settings.dates import future_moment
from t3flow.settings.user_map import UserMapError
from t3flow.state import me

ID = re.compile(r"[0-9a-f]{32}")
REFRESH_SECONDS, PUBLISH_SECONDS = 10.0, 3.0
"""How often accounts are looked up, and what users see is written where it changed."""
MAX_SHARE, SHORT_SECONDS = 0.001, 1.0
"""The share of a core that looking for wishes may take, and finding what users see: if the pauses that follow from it are not short, both are done
less often."""
BURST, EARN_SECONDS = 5.0, 30.0
"""How many wishes a user may write at once, and how long one more takes to earn."""
DAY_SECONDS = 86400.0
SLACK_SECONDS = 120.0
CANCEL = "cancel"


class Wishes:
    """The wishes of all users of the map. `heartbeat` is called for each user whose account is looked up, as a directory service may be slow."""

    def __init__(self, host: Host, hint: Callable[[str], None], heartbeat: Callable[[], None] = lambda: None) -> None:
        self._host = host
        self._hint = hint
        self._heartbeat = heartbeat
        self._folders: dict[str, tuple[Account, int]] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._allowance: dict[str, tuple[float, float]] = {}  # user → wishes left, as of a time (monotonic)
        self._published: dict[str, tuple[str, str]] = {}
        self._refreshed = self._published_at = self._alive_at = self._looked_at = -REFRESH_SECONDS * 10
        self._look_pause = self._publish_pause = 0.0

    def look(self) -> None:
        """Read new wishes, and let users see what changed for them. Raises JournalError: all is tried again then."""
        now = time.monotonic()
        if now - self._refreshed >= REFRESH_SECONDS:
            self._refresh()
            self._refreshed = now
        is_answered = False
        if self._look_pause < SHORT_SECONDS or now - self._looked_at >= self._look_pause:
            began = time.thread_time()
            for user, (owner, folder) in self._folders.items():
                is_answered = self._read(user, owner, folder) or is_answered
            took = 0.0 if is_answered else time.thread_time() - began
            self._looked_at, self._look_pause = now, took / MAX_SHARE
        if is_answered or now - self._published_at >= max(PUBLISH_SECONDS, self._publish_pause):
            began = time.thread_time()
            self._publish()
            self._published_at, self._publish_pause = now, (time.thread_time() - began) / MAX_SHARE
        if now - self._alive_at >= user_files.ALIVE_SECONDS:
            user_files.note_alive(self._host.settings.paths.state_dir)
            self._alive_at = now

    def _refresh(self) -> None:
        """Open the folder of each mapped user, and close those of users who left the map."""
        try:
            names = [entry.name for entry in self._host.user_map().users]
        except UserMapError:
            return  # `status` says so; those who are known are served on
        for user in set(self._folders) - set(names):
            self._forget(user)
        for user in names:
            self._heartbeat()
            try:
                owner = self._host.account(user)
                if user in self._folders:
                    if self._folders[user][0] == owner:
                        continue
                    os.close(self._folders.pop(user)[1])
                self._folders[user] = owner, user_files.prepare(self._host.settings.paths.state_dir, owner)
                self._published.pop(user, None)
            except AccountError as error:
                self._forget(user)  # the folder goes with an account that stays away (host/departed.py)
                logger.debug("{} has no files: {}", user, error)
            except OSError as error:
                logger.debug("the files of {} cannot be made: {}", user, error)

    def _forget(self, user: str) -> None:
        """Close the folder of a user who left, and drop what is known of them."""
        if (opened := self._folders.pop(user, None)) is not None:
            os.close(opened[1])
        for known in (self._seen, self._allowance, self._published):
            known.pop(user, None)

    def _read(self, user: str, owner: Account, folder: int) -> bool:
        """Carry out a user's wish if their file changed and their allowance lets them; return whether there is something to answer."""
        try:
            status = os.stat(user_files.WISH, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        mark = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._seen.get(user) == mark or status.st_size == 0 or not self._may_ask(user):
            return False
        self._seen[user] = mark
        try:
            document = read_document(folder, user_files.WISH, owner.uid)
            wish_id, kind = text_of(document, "id", 32), text_of(document, "wish", 10)
            if (
                document.get("schema") != 1
                or not ID.fullmatch(wish_id)
                or kind not in (wishes.NOW, wishes.LATER, CANCEL)
            ):
                raise BadDocument("its schema, id or wish is unknown")
            until = text_of(document, "until", 40)
        except (BadDocument, FileNotFoundError) as error:
            logger.debug("the wish of {} is ignored: {}", user, error)
            return False
        if self._is_done(user, wish_id):
            return False
        self._carry_out(user, wish_id, kind, until)
        return True

    def _is_done(self, user: str, wish_id: str) -> bool:
        """Return whether a wish was carried out and answered, maybe so long ago that the answer is gone."""
        if wishes.wish_of(self._host.journal, user).id != wish_id:
            return False
        known = actions.find(self._host.journal, me.action_id(user, wish_id))
        return known is None or known.result is not None

    def _may_ask(self, user: str) -> bool:
        left, at = self._allowance.get(user, (BURST, time.monotonic()))
        now = time.monotonic()
        left = min(BURST, left + (now - at) / EARN_SECONDS)
        self._allowance[user] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    def _carry_out(self, user: str, wish_id: str, kind: str, until: str) -> None:
        """Record a wish and its answer. Killed before the end, the wish is carried out again, which sets what is set."""
        journal = self._host.journal
        desk = Desk(self._host.settings, journal, Actor(USER, user), self._hint, me.action_id(user, wish_id))

        def do(entry: Action) -> str:
            return self._answer(user, wish_id, kind, until)

        name = "me now" if kind == wishes.NOW else "me later"
        try:
            answer = desk.once(name, {"until": until, CANCEL: kind == CANCEL}, do)
        except JournalError:
            self._seen.pop(user, None)
            raise
        except T3flowError as error:
            former = wishes.wish_of(journal, user)
            wishes.put(journal, user, wish_id, former.kind, former.until)
            answer = str(error)
        logger.info("{} asked for {}: {}", user, name, answer)
        if (pending := deferral_records.deferral(journal, user)) is not None:
            wake_run(journal, pending.run)
            self._hint(pending.run)

    def _answer(self, user: str, wish_id: str, kind: str, until: str) -> str:
        """Record a wish and return the answer. Raises T3flowError for one that cannot be granted."""
        host = self._host
        if kind == CANCEL:
            wishes.put(host.journal, user, wish_id, wishes.NONE)
            return "you have no wish any more: t3flow moves you when you are idle in the window"
        if kind == wishes.LATER:
            days = host.settings.deferral.later_days
            at = future_moment(host.settings, until)
            words = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
            if at > time.time() + days * DAY_SECONDS + SLACK_SECONDS:
                raise Refused(
                    f"{words} is more than {days:g} days ahead, which is as far as deferral.later_days allows"
                )
            wishes.put(host.journal, user, wish_id, wishes.LATER, at)
            return f"t3flow does not move you before {words}; to withdraw that: t3flow me later --cancel"
        if reason := holds.reason(host.journal, user):
            raise Refused(f"an operator keeps you on your version: {reason.partition(': t3flow release')[0]}")
        if freeze.is_frozen(host.settings):
            raise Refused("tracking is frozen, so that nobody is moved; ask an operator")
        pending = deferral_records.deferral(host.journal, user)
        if pending is not None and pending.revoked:
            raise Refused("an operator took your move out of the queue; ask an operator")
        if pending is None:
            wishes.put(host.journal, user, wish_id, wishes.NONE)
            return "nothing waits for you"
        wishes.put(host.journal, user, wish_id, wishes.NOW)
        return "t3flow moves you as soon as no turn is running or was just now; processes in your server end with it"

    def _publish(self) -> None:
        """Write what each user may know where it changed."""
        documents = me.documents_of(self._host.settings, self._host.journal)
        for user, (owner, folder) in self._folders.items():
            if (document := documents.get(user)) is None:
                continue
            texts = me.text(document), me.hint(document)
            if self._published.get(user) == texts:
                continue
            with suppress(OSError):  # a full disk; the next look tries again
                user_files.publish(folder, user_files.ME, texts[0], owner)
                user_files.publish(folder, user_files.HINT, f"{texts[1]}\n" if texts[1] else "", owner)
                self._published[user] = texts
