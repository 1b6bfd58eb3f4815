"""The consumer: one process on the host that takes tasks from the queue. What the systemd service starts."""

import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huey.consumer import Consumer
from loguru import logger

from t3flow import T3flowError, periodic
from t3flow.engine.engine import Engine
from t3flow.engine.files import make_folder
from t3flow.engine.flow import YIELD
from t3flow.engine.journal import Journal, Run
from t3flow.engine.queue import QUEUE_SHARED, HintQueue, open_queue, queue_key
from t3flow.host import freeze, launcher, resumption
from t3flow.host.host import Host, open_host, take_charge
from t3flow.host.records import facts, journal_reserve, tables
from t3flow.service.heartbeat import Heartbeats, feed_watchdog
from t3flow.service.systemd import notify, status_watcher
from t3flow.settings import schedule
from t3flow.settings.load import Settings
from t3flow.state.runs import RunWords
from t3flow.workflows import STOPPED_BY_FREEZE, WORKFLOWS, YIELDING

JOURNAL = "journal.db"
KEY = "queue.key"
LOCK = "consumer.lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
URGENT = "urgent"
WORKERS = 4
ORPHAN_PATIENCE_SECONDS = 10.0
SHUTDOWN_SECONDS = 85.0
BLOCKS_URGENT_RUN = """
select 1 from locks join runs on runs.status = 'running' and runs.held is null
where locks.run = ? and runs.id != locks.run and runs.priority > ?
and (runs.wake_at is null or runs.claim is null and runs.wake_at <= ?)"""
"""Whether a run (its id, its priority) has the host while (now) a more urgent one waits for it, or is about to."""


class ConsumerError(T3flowError):
    """The consumer cannot start."""


@contextmanager
def only_consumer(state_dir: Path) -> Iterator[None]:
    """Holds the consumer's lock, which dies with the process. Raises ConsumerError with the pid of the one that has it."""
    path = state_dir / LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConsumerError(
                f"another consumer runs on this host (pid {file.read().strip() or 'unknown'}): stop it first (systemctl stop t3flow)"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_journal(settings: Settings, *, create: bool = False) -> Journal:
    """The journal in the settings' state folder. Raises JournalError."""
    return Journal(settings.paths.state_dir / JOURNAL, create=create, extra_schema=tables.SCHEMA)


class Worker(Consumer):  # type: ignore[misc]
    """Huey's consumer, which tells the engine when it is to end, so that no long step is waited for, and the watchdog that its threads live.

    SIGTERM, Ctrl-C and a terminal that closes are the same: what is in hand comes to a safe point, within SHUTDOWN_SECONDS. A further one
    changes nothing: a restart that is cut off leaves its user without a server until the next consumer.
    """

    def __init__(self, engine: Engine, heartbeats: Heartbeats) -> None:
        self.engine = engine
        self.heartbeats = heartbeats
        self.threads: list[threading.Thread] = []
        self._signum: int | None = None
        engine.queue.pre_execute("pulse")(lambda task: heartbeats.work())
        engine.queue.post_execute("pulse")(lambda task, value, error: heartbeats.beat())
        super().__init__(
            engine.queue, workers=WORKERS, initial_delay=0.05, max_delay=0.25, shutdown_timeout=SHUTDOWN_SECONDS
        )
        self._signal_actions = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), (False, True))
        self._set_signal_handlers()  # before anything is in hand

    def _handle_signal(self, signum: int, frame: object) -> None:
        if self._signum is None:
            self._signum, self._restart, self._graceful = signum, False, True
        else:  # not by the log, which this may have interrupted
            os.write(2, f"t3flow: ending at the next safe point; to end it now: kill -9 {os.getpid()}\n".encode())

    def _create_process(self, process: Any, name: str) -> threading.Thread:
        work = process.loop

        def loop(now: Any = None) -> None:
            self.heartbeats.beat(name)
            work(now)

        process.loop = loop
        made: threading.Thread = super()._create_process(process, name)
        return made

    def loop(self, health_check_ts: float | None = None) -> Any:
        """One look at signals and threads."""
        self.heartbeats.beat("main")
        return super().loop(health_check_ts)

    def start_thread(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread of the consumer's own beside Huey's."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def stop(self, graceful: bool = False) -> None:
        """Let every thread come to a safe point."""
        notify("STOPPING=1", "STATUS=letting what is in hand come to a safe point")
        self.engine.stop()
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        super().stop(graceful)
        for thread in self.threads:
            if thread.name == URGENT:
                thread.join(max(0.0, deadline - time.monotonic()))


def build(settings: Settings, journal: Journal) -> tuple[Engine, Host, periodic.Minute]:
    """The engine on this host, with its workflows and periodic tasks, and the minute's work."""
    consumer = {"host": socket.gethostname(), "boot": boot_id(), "pid": str(os.getpid())}
    queue = open_queue(settings.queue.url, queue_key(settings.paths.state_dir / KEY), consumer=consumer)
    engine = make_engine(settings, journal, queue)
    host = open_host(settings, journal, hint=engine.hint)
    take_charge(host)
    minute = periodic.register(engine, host)
    engine.watchers += [
        queue_watcher(engine, host),
        status_watcher(engine, host),
        journal_reserve.watch(settings.paths.state_dir),
    ]
    return engine, host, minute


def boot_id() -> str:
    """What tells one boot of this host from another, and from one of a copy of it; "" where the kernel does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def make_engine(settings: Settings, journal: Journal, queue: HintQueue) -> Engine:
    """Return an engine that asks runs to free the host by what stands in no table of signals: the freeze file, and a more urgent run that waits.

    A bump or a drain that an operator began ends as frozen, a dry run or an adoption as cancelled; the drain of a deferral tries again later.
    """

    def standing_signal(run: Run) -> str | None:
        changes_nothing = run.args.get("dry_run") or run.workflow in YIELDING
        is_held = run.workflow in STOPPED_BY_FREEZE and not changes_nothing
        if is_held and freeze.is_frozen(settings):
            return "freeze"
        if not journal.query(BLOCKS_URGENT_RUN, run.id, run.priority, time.time()):
            return None
        return "freeze" if is_held else "cancel" if changes_nothing else YIELD if run.workflow == "drain" else None

    def on_not_undone(run: Run, reason: str) -> None:
        freeze.freeze(settings, journal, f"ROLLBACK FAILED in {run.id}: {reason}", by=run.id)
        logger.error("FROZEN: ROLLBACK FAILED in {}: {}", run.id, reason)

    return Engine(
        journal, queue, WORKFLOWS, standing_signal=standing_signal, on_not_undone=on_not_undone, words=RunWords()
    )


def consume(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises ConsumerError, JournalError, T3flowError when it cannot start."""
    schedule.zone(settings)  # one that is not known is an error now, and not a bump at another hour
    prepare(settings.paths.state_dir)
    with only_consumer(settings.paths.state_dir):
        journal = open_journal(settings, create=True)
        tables.migrate_facts(journal)
        engine, host, minute = build(settings, journal)
        heartbeats = Heartbeats()
        worker = Worker(engine, heartbeats)
        publish_settings(host, engine.queue.name)
        notify("STATUS=ending what a consumer that died may have left")
        ended = host.children.end_orphans(ORPHAN_PATIENCE_SECONDS)
        if ended:
            logger.warning("ended {} processes that a consumer which died had left", ended)
        resumption.resume_paused(host)
        periodic.sweep(host)
        update_launcher(host)
        with suppress(Exception):  # one that is away is waited for
            engine.queue.storage.delete_other_queues()
        engine.watchers.append(lambda: heartbeats.beat("watch"))
        worker.start_thread("watchdog", lambda: feed_watchdog(heartbeats, engine.stopping))
        worker.start_thread("watch", engine.watch)
        worker.start_thread("queue", engine.watch_queue)
        worker.start_thread(URGENT, engine.advance_urgent)
        minute()
        worker.start_thread("clock", lambda: minute.keep(lambda: heartbeats.beat("clock")))
        notify("READY=1")
        logger.info("consumer {} is ready", os.getpid())
        worker.run()


def update_launcher(host: Host) -> None:
    """Put this t3flow's launcher in place of an earlier one's, by one rename; what another program put there is left alone. Idempotent."""
    paths = host.settings.paths
    try:
        wanted = launcher.launcher_text(paths.versions_dir, sandbox=host.settings.serve.backend == "process")
        if launcher.is_launcher(paths.launcher) and paths.launcher.read_text() != wanted:
            launcher.install_launcher(
                paths.launcher, paths.versions_dir, sandbox=host.settings.serve.backend == "process"
            )
            logger.info("{} is the launcher of this t3flow now", paths.launcher)
    except OSError as error:
        logger.warning("{} cannot be renewed ({}): t3flow doctor --fix", paths.launcher, error.strerror)


def queue_watcher(engine: Engine, host: Host) -> Callable[[], None]:
    """Return a watcher that notes for `status` while the queue does not answer, and for `doctor` which other consumers use it."""
    noted: dict[str, Any] = {"waiting_for": None, QUEUE_SHARED: None}

    def watch() -> None:
        shared = sorted(f"{each['host']} (pid {each['pid']})" for each in engine.other_consumers)
        found = {
            "waiting_for": "the queue" if engine.queue_unavailable.is_set() else None,
            QUEUE_SHARED: shared or None,
        }
        for key, value in found.items():
            if value != noted[key]:
                facts.write(host.journal, key, value)
                noted[key] = value
                if key == QUEUE_SHARED and value:
                    logger.error(
                        "another consumer takes messages from this host's queue: {}: t3flow doctor", ", ".join(value)
                    )

    return watch


def prepare(state_dir: Path) -> None:
    """Makes the state folder, for this account alone. Raises ConsumerError."""
    try:
        make_folder(state_dir, 0o700)
        (state_dir / LOCK).touch(mode=0o600)
    except OSError as error:
        raise ConsumerError(
            f"{state_dir} cannot be used ({error.strerror}): make it and give it to the account that runs the consumer"
        ) from error


def publish_settings(host: Host, queue_name: str) -> None:
    """Notes for other commands which settings act: those of this process."""
    settings = host.settings
    facts.write(
        host.journal,
        "consumer",
        {
            "pid": os.getpid(),
            "since": time.time(),
            "queue_url": settings.queue.url,
            "queue_name": queue_name,
            "pin_source": settings.sources["track.pin"],
            "pin": settings.track.pin,
        },
    )
    facts.write(host.journal, "waiting_for", None)
    facts.write(host.journal, QUEUE_SHARED, None)
    rules = settings.deferral._asdict()
    if facts.read(host.journal, "deferral_rules") != rules:
        facts.write(host.journal, "deferral_rules", rules)
        periodic.wake_all_drains(host)
