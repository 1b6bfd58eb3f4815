"""The consumer's thread for the fleet: publishes this host's record, listens to the others, gives the slot back, and wakes the run that waits.

1. Subscribe, then look at everything once: nothing that is published in between is missed.
2. Wake the waiting run whenever another host published something.
3. Publish this host's record when it changes, and once an hour as a sign of life.
4. Free this host's slot as soon as it need not be held any more, after the record says why.
5. When the connection is lost: try again with growing pauses, and record for how long the fleet has not answered.
"""

import threading
import time

from loguru import logger

from t3flow.engine.runs import wake_run
from t3flow.fleet import known, looking, own, trouble, turn
from t3flow.fleet.errors import FleetError, FleetUnreachable
from t3flow.fleet.known import Known
from t3flow.fleet.members import Fleet, open_fleet
from t3flow.fleet.own import SEQ, TURN, WAITING, Turn
from t3flow.fleet.records import FREED, RECORD, Record
from t3flow.fleet.signatures import create_private_key
from t3flow.host.host import Host
from t3flow.host.records import facts, rejections

NAME = "fleet"
POLL_SECONDS = 1.0
PUBLISH_SECONDS = 3600.0
ALARM_SECONDS = 3000.0
"""Trouble is logged about as often as this host shows a sign of life."""
LONGEST_PAUSE_SECONDS = 20.0
BUMP = "workflow = 'bump' and coalesce(json_extract(args, '$.dry_run'), 0) = 0"
STILL_WAITS = (
    *("fleet_wait", "registry_unreachable", "incomplete_release", "too_young"),
    *("backup_failed", "gate_inconclusive", "error"),
)
"""Outcomes of a bump after which the host has still had no turn for a version that it wants."""
GRACE_SECONDS = LONGEST_PAUSE_SECONDS + 5.0
"""After Redis has lost its data: until each host that holds a slot has connected again and put its claim back."""


class Keeper:
    """Keeps this host a member of its fleet until the consumer stops."""

    def __init__(self, host: Host, fleet: Fleet, stopping: threading.Event) -> None:
        self._host = host
        self._fleet = fleet
        self._stopping = stopping
        self._published: Record | None = None
        self._published_at = 0.0
        self._alarmed_at = time.monotonic() - ALARM_SECONDS
        self._is_answering = True
        self._failing_since = time.monotonic()

    def repeat(self) -> None:
        """Keep the host a member until the consumer stops. An error is recorded, and the work begins anew after a pause."""
        pause = POLL_SECONDS
        while not self._stopping.is_set():
            try:
                if self._fleet.store is not None:
                    self._attend()
                else:
                    self._keep_lock()
                return
            except FleetError as error:
                pause = self._note_failure(error, pause)
            except Exception:
                logger.opt(exception=True).error("the fleet's thread failed; it begins anew")
                pause = LONGEST_PAUSE_SECONDS
            self._stopping.wait(pause)

    def _note_failure(self, error: FleetError, pause: float) -> float:
        """Record that the fleet does not answer, and since when; return the next pause."""
        now = time.monotonic()
        seconds = 0.0 if self._is_answering else now - self._failing_since
        if self._is_answering:
            logger.warning("FLEET UNREACHABLE: {}; no version is started that other hosts have not verified", error)
            pause = POLL_SECONDS / 2
        self._is_answering, self._failing_since = False, now
        known.note_unreachable(self._host.journal, str(error), seconds if isinstance(error, FleetUnreachable) else None)
        return min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _note_success(self) -> None:
        if not self._is_answering:
            logger.info("the fleet answers again")
        self._is_answering = True

    # Redis --------------------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        """Publish, listen, and give back until the consumer stops. Raises FleetError."""
        assert self._fleet.store is not None
        self._published = None
        inbox = self._fleet.store.subscribe()
        try:
            self._look_and_publish()
            while not self._stopping.is_set():
                self._receive(inbox.next(POLL_SECONDS))
                self._end_wait()
                if self._has_news():
                    self._look_and_publish()
                self._give_back()
        finally:
            inbox.close()

    def _look_and_publish(self) -> None:
        found = self._look()
        if self._has_lost(found):
            self._restore(found)
        self._publish(found)
        self._note_success()

    def _look(self) -> Known:
        """Ask the fleet, and bring the turn of this host and its slot into line, as one of them may be left of a turn that is over.

        A slot may have been freed by an operator: its turn is forgotten, unless a run of it is under way. A claim may be in Redis without a turn:
        it arrived there after its run had given up, or another host put it back late. It is freed, unless its run is none of this host's, which
        has lost its journal then.
        """
        journal, name = self._host.journal, self._fleet.name
        with known.LOCK:
            found = looking.look(journal, self._fleet)
            turn_ = facts.read(journal, TURN)
            claims = [slot.claim for slot in found.slots if slot.claim and slot.claim.host == name]
            if turn_ is None and any(own.is_own(journal, claim.run) for claim in claims):
                free_slots(self._fleet, found, name)
                found = looking.look(journal, self._fleet)
            elif (
                turn_ is not None
                and not claims
                and not any(own.is_under_way(journal, each) for each in own.taken(turn_))
            ):
                self._forget(turn_)
        return found

    def _end_wait(self) -> None:
        """Forget that this host waits once a bump ended otherwise: it had its turn, none was needed, or a person stopped it."""
        waiting = facts.read(self._host.journal, WAITING)
        if waiting is None or own.is_running(self._host.journal, waiting["run"]):
            return
        for last in self._host.journal.runs(BUMP, limit=1):
            if last.status != "running" and last.outcome not in STILL_WAITS:
                facts.change(self._host.journal, WAITING, lambda now: None if now == waiting else now)

    def _receive(self, message: bytes | None) -> None:
        """Note what another host published, and wake the run that waits."""
        if message is None:
            return
        if message == FREED:
            if self._has_lost(self._look()):
                self._published = None
            self._wake()
            return
        with known.LOCK:
            after = known.merge_message(known.read(self._host.journal), self._fleet.keys(), message)
            if after is not None:
                known.note(self._host.journal, after)
        if after is not None:
            self._wake()

    def _wake(self) -> None:
        """Have the run that waits for its turn ask again now."""
        waiting = facts.read(self._host.journal, WAITING)
        if waiting and own.is_running(self._host.journal, waiting["run"]):
            wake_run(self._host.journal, waiting["run"])
            self._host.hint(waiting["run"])

    def _has_news(self) -> bool:
        """Return whether this host's record has changed, or is due as a sign of life."""
        if self._published is None or time.monotonic() - self._published_at >= PUBLISH_SECONDS:
            return True
        present = self._record(self._published.seq, self._published.at)
        return _without_times(present) != _without_times(self._published)

    def _record(self, seq: int, now: float) -> Record:
        return own.record(self._host, self._fleet.name, seq, now, lambda moment: max(0.0, time.time() - moment))

    def _publish(self, found: Known) -> None:
        """Publish this host's record with a number above all former ones, which is recorded first."""
        assert self._fleet.store is not None
        before = found.records.get(self._fleet.name)
        least = max(before.seq if before else 0, int(found.now * 1000))
        seq = int(facts.change(self._host.journal, SEQ, lambda former: max(former or 0, least) + 1))
        record = self._record(seq, found.now)
        self._fleet.store.publish(self._fleet.name, self._fleet.keys().sign(RECORD, record.body()))
        if time.monotonic() - self._alarmed_at >= ALARM_SECONDS:
            self._sound_alarms(found)
        self._published, self._published_at = record, time.monotonic()
        self._wake()

    def _has_lost(self, found: Known) -> bool:
        """Return whether Redis has lost its data: the record of this host, which has published one, is not there."""
        return not found.is_published and facts.read(self._host.journal, SEQ) is not None

    def _restore(self, found: Known) -> None:
        """Put claims that Redis has lost back, and wait until the others have, before this host publishes its record again.

        Without a record this host takes no slot, so that it takes none whose holder may be restarting users. The others may not have noticed the
        loss, as it need not end their connections.
        """
        assert self._fleet.store is not None
        logger.warning("the fleet's Redis has lost its data: this host takes no slot for {:g} s", GRACE_SECONDS)
        for number, slot in enumerate(found.slots):
            if slot.content is not None and slot.claim is not None and self._fleet.store.take(number, slot.content):
                logger.warning("put the claim of {} back into slot {}", slot.claim.host, number)
        self._fleet.store.call_on_others()
        self._stopping.wait(GRACE_SECONDS)

    def _sound_alarms(self, found: Known) -> None:
        """Log in words that alert rules match what keeps the fleet from going on."""
        settings, waiting = self._fleet.settings, facts.read(self._host.journal, WAITING)
        for line in trouble.stuck(found, settings, self._fleet.name, waiting):
            logger.error("FLEET STUCK: {}", line)
        for host, what in trouble.silent_hosts(found, settings, self._fleet.name).items():
            logger.warning("FLEET HOST SILENT: {}: {}; see t3flow fleet status", host, what)
        self._alarmed_at = time.monotonic()

    def _give_back(self) -> None:
        """Free the slot of a turn that is over, then forget the turn. A kill in between finds the slot free."""
        if self._over() is None:
            return
        with known.LOCK:
            if (over := self._over()) is None:
                return
            free_slots(self._fleet, looking.look(self._host.journal, self._fleet), self._fleet.name)
            self._forget(over)
            looking.look(self._host.journal, self._fleet)

    def _over(self) -> Turn | None:
        """Return the turn of this host if its slot need not be held any more."""
        over: Turn | None = facts.read(self._host.journal, TURN)
        return None if over is None or own.must_hold(self._host) else over

    # FleetLock ----------------------------------------------------------------------------------------------------

    def _keep_lock(self) -> None:
        """Give the slot back when it need not be held. Raises FleetError.

        Only runs that wait for a slot ask the server, perhaps once a night. After a failure, whether it is silent is therefore asked from time to
        time, as the host may go on alone after so many hours of silence.
        """
        assert self._fleet.lock is not None
        noted = time.monotonic()
        while not self._stopping.wait(POLL_SECONDS):
            self._unlock_if_over()
            self._end_wait()
            if (now := time.monotonic()) - noted >= LONGEST_PAUSE_SECONDS:
                problem = known.read(self._host.journal).problem  # until the server answers a run that asks again
                if problem:
                    seconds = None if self._fleet.lock.answers() else now - noted
                    known.note_unreachable(self._host.journal, problem, seconds)
                noted = now

    def _unlock_if_over(self) -> None:
        assert self._fleet.lock is not None
        if self._over() is None:
            return
        with known.LOCK:
            if (over := self._over()) is None:
                return
            self._fleet.lock.unlock(self._fleet.name)
            turn.note_answer(self._host)
            self._forget(over)
        self._note_success()

    def _forget(self, over: Turn) -> None:
        """Forget a turn, unless another one has begun."""
        facts.change(self._host.journal, TURN, lambda present: None if present == over else present)


def free_slots(fleet: Fleet, found: Known, holder: str) -> int:
    """Free the slots that a host holds, as they were read. Return how many were freed. Raises FleetError."""
    assert fleet.store is not None
    freed = 0
    for number, slot in enumerate(found.slots):
        if slot.claim is not None and slot.claim.host == holder and slot.content is not None:
            freed += fleet.store.free(number, slot.content)
            logger.info("freed slot {} of the fleet, which {} held for {}", number, holder, slot.claim.version)
    return freed


def _without_times(record: Record) -> Record:
    """Return a record without what changes by itself."""
    return record._replace(seq=0, at=0.0, waiting_since=0.0)


def keep(host: Host, stopping: threading.Event) -> None:
    """Keep this host a member of its fleet until the consumer stops."""
    fleet = open_fleet(host.settings)
    if fleet is None:
        return
    if fleet.store is not None:
        try:
            if create_private_key(host.settings.fleet.key_file):
                logger.info(
                    "created the key of this host in the fleet; give its public key to the others: t3flow fleet key"
                )
        except FleetError as error:
            logger.warning("{}", error)
    else:
        rejections.forget_other_hosts(host.journal, [])
    Keeper(host, fleet, stopping).repeat()
