"""Derives messages from journaled facts, each exactly once: the transaction that inserts a message also notes the fact as told.

1. Ends of runs: each is news once (`host/records/outbox.py`). A run has at most one message. Deferred users who were moved within minutes share one.
2. Freeze and unfreeze: compared with the open alert. A freeze that a run causes belongs to the message of that run.
3. Problems that need a person: compared with the open alerts, so that a problem is told when it appears and when it is over, not every night.
"""

import secrets
import time
from collections.abc import Callable

from t3flow.engine.journal import Run
from t3flow.host import freeze
from t3flow.host.host import Host
from t3flow.host.records import alerts, outbox
from t3flow.host.records.alerts import Alert
from t3flow.host.records.outbox import News
from t3flow.service.notifications import messages, pings
from t3flow.service.notifications.told import AUTOMATIC, REPEATS, SETTLE_SECONDS
from t3flow.state.documents import Message, Problem
from t3flow.state.host import collect
from t3flow.state.problems import identity
from t3flow.state.short import short_id

LOOK_SECONDS = 10.0
"""How often the problems of the host are compared."""
HAND_MADE_SECONDS = 1.0
"""A freeze file without a record may be one whose record follows."""
GATHER_SECONDS = 300.0
"""For how long drains that moved their users are gathered for one message: a hundred may end in one night."""
MAX_AGE_SECONDS = 3 * 86400.0
"""Older news, such as from before a long downtime, is no longer told."""
CHANGES_THE_HOST = "select 1 from locks left join runs on runs.id = locks.run where held is not 'newer' limit 1"
"""Finds a run that has the host. One that a newer t3flow began and this one left alone keeps the host until an operator acts, so it is told."""


class Deriver:
    """Derives messages for these channels, and pings if `has_ping`. Call it often; a call that finds nothing new only reads."""

    def __init__(
        self, host: Host, channels: list[str], *, has_ping: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = host
        self._journal = host.journal
        self._channels = channels
        self._has_ping = has_ping
        self._clock = clock
        self._gathered: dict[int, tuple[News, Run]] = {}  # news of drains that moved their users, by id
        self._looked_at = clock() - LOOK_SECONDS
        self._frozen_since: float | None = None  # when a freeze by hand was first seen
        self._seen: dict[tuple[str, str], float] = {}  # problem → since when it has been seen (monotonic)

    def __call__(self) -> None:
        """Derive what follows from the present facts."""
        for item in outbox.news(self._journal, after=max(self._gathered, default=0)):
            self._of_news(item)
        if self._gathered and not 0 <= time.time() - next(iter(self._gathered.values()))[0].at < GATHER_SECONDS:
            self._of_gathered()
        self._of_freeze()
        if self._clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._clock()
            self._of_problems()

    # Runs ------------------------------------------------------------------------------------------------------

    def _of_news(self, item: News) -> None:
        run = next(iter(self._journal.runs("id = ?", item.run)), None)
        if run is not None and item.what == "ended" and self._moved_a_user(run):
            self._gathered[item.id] = (item, run)
            return
        ping = self._ping(item, run)
        message, opened, closed = (None, [], []) if run is None or item.what != "ended" else self._of_end(run)
        if time.time() - item.at > MAX_AGE_SECONDS:
            ping = message = None
        with self._journal.transaction() as connection:
            if not outbox.forget_news(connection, item):
                return
            for alert in opened:
                alerts.put(connection, alert)
            for key, user in closed:
                alerts.close(connection, key, user)
            if ping is not None:
                pings.put(connection, f"{item.run}/{item.what}", ping, item.at)
            if message is not None:
                outbox.put(connection, message["key"], self._channels, dict(message), item.at)

    def _moved_a_user(self, run: Run) -> bool:
        """Return whether a drain did its work and nothing else is to be said of it."""
        is_moved = run.workflow == "drain" and messages.occasions_of(run) == ["updated"]
        return is_moved and not self._closes_an_alert(run)

    def _closes_an_alert(self, run: Run) -> bool:
        return _alert_key(run) in alerts.open_alerts(self._journal)

    def _of_gathered(self) -> None:
        """Derive one message of all drains that were gathered. After a kill, the next process gathers them again."""
        gathered, self._gathered = list(self._gathered.values()), {}
        item, first = gathered[-1][0], gathered[0][1]
        message = messages.of_drains([run for _, run in gathered]) if len(gathered) > 1 else None
        message = message or messages.of_run(first, ["updated"], frozen=None, is_well_again=False)
        is_told = bool(self._wanted(["updated"])) and time.time() - item.at <= MAX_AGE_SECONDS
        with self._journal.transaction() as connection:
            for each, _ in gathered:
                outbox.forget_news(connection, each)
            if is_told:
                outbox.put(connection, message["key"], self._channels, dict(message), time.time())

    def _ping(self, item: News, run: Run | None) -> pings.Ping | None:
        if not self._has_ping or run is None or not pings.is_scheduled(run):
            return None
        if item.what == "ended":
            return pings.of_end(self._host.settings, self._journal, run)
        return pings.of_start(run) if run.status == "running" else None

    def _of_end(self, run: Run) -> tuple[Message | None, list[Alert], list[tuple[str, str]]]:
        """Return the message about the end of a run, if it is worth one, the alerts that it opens, and the keys of those that it closes."""
        occasions, known = messages.occasions_of(run), alerts.open_alerts(self._journal)
        opened: list[Alert] = []
        closed: list[tuple[str, str]] = []
        key = _alert_key(run)
        if run.workflow in AUTOMATIC and run.outcome in REPEATS and "failed" in occasions:
            if key in known and known[key].text == run.outcome:
                occasions.remove("failed")
            opened.append(Alert(*key, run.updated, run.outcome))
        elif key in known and run.status == "succeeded" and not run.args.get("dry_run"):
            occasions.append("recovered")
            closed.append(key)
        frozen = freeze.frozen(self._host.settings, self._journal)
        problem = None
        if frozen and frozen["by"] == run.id and ("frozen", "") not in known:
            problem = _frozen_problem(frozen)
            occasions.append("frozen")
            opened.append(Alert("frozen", "", frozen["since"], frozen["reason"]))
        wanted = self._wanted(occasions)
        if not wanted:
            return None, opened, closed
        return messages.of_run(run, wanted, frozen=problem, is_well_again=bool(closed)), opened, closed

    def _wanted(self, occasions: list[str]) -> list[str]:
        return [each for each in dict.fromkeys(occasions) if each in self._host.settings.notify.on]

    # Freeze ----------------------------------------------------------------------------------------------------

    def _of_freeze(self) -> None:
        frozen = freeze.frozen(self._host.settings, self._journal)
        alert = alerts.open_alerts(self._journal).get(("frozen", ""))
        if frozen is None:
            self._frozen_since = None
            if alert is not None:
                message = messages.of_unfreeze(_key("unfrozen"), time.time(), alert.text)
                self._tell(message, closed=[("frozen", "")])
        elif alert is None and self._is_settled(frozen):
            since = min(frozen["since"], time.time())
            message = messages.of_freeze(_key("frozen"), since, _frozen_problem(frozen))
            self._tell(message, opened=[Alert("frozen", "", frozen["since"], frozen["reason"])])

    def _is_settled(self, frozen: freeze.Frozen) -> bool:
        """Return whether a freeze is to be told now: no run is about to end with it, and its record is there."""
        if frozen["by"] == "file":
            self._frozen_since = self._frozen_since or self._clock()
            return self._clock() - self._frozen_since >= HAND_MADE_SECONDS
        is_running = self._journal.runs("id = ? and status = 'running'", frozen["by"])
        return not is_running and not outbox.has_news(self._journal, frozen["by"])

    # Problems --------------------------------------------------------------------------------------------------

    def _of_problems(self) -> None:
        if self._journal.query(CHANGES_THE_HOST):
            return  # a run changes the host, and tells how that ended
        found = {identity(each): each for each in self._problems()}
        known = {key: alert for key, alert in alerts.open_alerts(self._journal).items() if key[0] in SETTLE_SECONDS}
        if ("dispatch", "") in found:  # which stands for what its users cannot do
            known = {key: alert for key, alert in known.items() if key[0] != "unpaired"}
        now = self._clock()
        self._seen = {key: self._seen.get(key, now) for key in found.keys() ^ known.keys()}
        settled = [key for key, since in self._seen.items() if now - since >= SETTLE_SECONDS[key[0]]]
        self._seen = {key: since for key, since in self._seen.items() if key not in settled}
        if new := [key for key in found if key in settled]:
            message = messages.of_problems(_key("problems"), time.time(), [found[key] for key in new])
            self._tell(message, opened=[Alert(*key, time.time(), found[key]["text"]) for key in new])
        if over := [key for key in known if key in settled]:
            is_all = len(over) == len(alerts.open_alerts(self._journal))
            texts = [known[key].text for key in over]
            self._tell(messages.of_recovery(_key("recovered"), time.time(), texts, is_all), closed=over)

    def _problems(self) -> list[Problem]:
        status = collect(self._host.settings, is_live=False)
        return [each for each in status["problems"] if each["key"] in SETTLE_SECONDS] if status["observed"] else []

    def _tell(self, message: Message, opened: list[Alert] = [], closed: list[tuple[str, str]] = []) -> None:  # noqa: B006 - only read
        """Insert a message, unless no one wants it, and note in the same transaction what it tells."""
        with self._journal.transaction() as connection:
            for alert in opened:
                alerts.put(connection, alert)
            for key in closed:
                alerts.close(connection, *key)
            if self._wanted(message["occasions"]):
                outbox.put(connection, message["key"], self._channels, dict(message), time.time())


def _alert_key(run: Run) -> tuple[str, str]:
    return f"{run.workflow}_ended", str(run.args.get("user") or "")


def _frozen_problem(frozen: freeze.Frozen) -> Problem:
    """Return the freeze as a problem; without the time that has passed, as a message may be read later."""
    text = f"Frozen by {short_id(frozen['by'])}: {frozen['reason']}"
    return Problem(key="frozen", user=None, text=text, remedy="resume with: t3flow unfreeze")


def _key(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(8)}"
