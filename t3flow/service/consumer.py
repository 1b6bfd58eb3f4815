"""The consumer: the one process of a host that advances runs, started by systemd.

Beside Huey's workers it runs a thread for each duty that must not wait for the queue: signals, the clock, urgent runs, and the watchdog.
"""

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
from t3flow.engine import downgrades
from t3flow.engine.engine import Engine
from t3flow.engine.files import write_atomically
from t3flow.engine.flow import YIELD
from t3flow.engine.journal import Journal, Run
from t3flow.engine.queue import QUEUE_SHARED, HintQueue, open_queue, queue_key
from t3flow.host import freeze, orphans
from t3flow.host.activity import resumption
from t3flow.host.host import Host, open_host, set_current_host
from t3flow.host.processes import proc
from t3flow.host.records import counters, facts, journal_reserve, rejections, tables
from t3flow.host.slots import launcher
from t3flow.host.state_dir import create_folders, prepare
from t3flow.service import spools
from t3flow.service.heartbeat import Heartbeats, feed_watchdog
from t3flow.service.metrics.counting import dropped_watcher
from t3flow.service.notifications import sender
from t3flow.service.observer import keep_observed
from t3flow.service.systemd import notify, status_watcher
from t3flow.service.verifier import Verifier
from t3flow.settings import schedule
from t3flow.settings.load import Settings
from t3flow.settings.text import describe
from t3flow.state.fleet_settings import FLEET_FILE, as_text
from t3flow.state.host import METRICS_PROBLEMS
from t3flow.state.runs import RunWords
from t3flow.state.sources import QUEUE_FAULT, QUEUE_URL
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
"""Whether a run (id, priority) has the lease while (now) a more urgent run waits for it or is due."""


class ConsumerError(T3flowError):
    """The consumer cannot start."""


@contextmanager
def only_consumer(state_dir: Path) -> Iterator[None]:
    """Hold the consumer's lock file, which the kernel releases with the process. Raises ConsumerError with the pid of another consumer."""
    path = state_dir / LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConsumerError(
                f"another consumer runs on this host (pid {file.read().strip() or 'unknown'}); stop it first: systemctl stop t3flow"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_journal(settings: Settings, *, create: bool = False) -> Journal:
    """Open the journal in the state folder of the settings. Raises JournalError."""
    return Journal(settings.paths.state_dir / JOURNAL, create=create, extra_schema=tables.SCHEMA)


class Worker(Consumer):  # type: ignore[misc]
    """Huey's consumer, with the engine told to stop so that no long step delays the end, and with heartbeats of its threads for the watchdog.

    SIGTERM, SIGINT, and SIGHUP all let running work reach a safe point within SHUTDOWN_SECONDS. A second signal is a no-op: cutting off a restart
    would leave its user without a server until the next consumer starts.
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
        self._set_signal_handlers()  # before any run is advanced

    def _handle_signal(self, signum: int, frame: object) -> None:
        if self._signum is None:
            self._signum, self._restart, self._graceful = signum, False, True
        else:  # os.write, because the signal may have interrupted the logger
            os.write(2, f"t3flow: stopping at the next safe point; to stop at once: kill -9 {os.getpid()}\n".encode())

    def _create_process(self, process: Any, name: str) -> threading.Thread:
        work = process.loop

        def loop(now: Any = None) -> None:
            self.heartbeats.beat(name)
            work(now)

        process.loop = loop
        made: threading.Thread = super()._create_process(process, name)
        return made

    def loop(self, health_check_ts: float | None = None) -> Any:
        """Check signals and threads once."""
        self.heartbeats.beat("main")
        return super().loop(health_check_ts)

    def start_thread(self, name: str, work: Callable[[], None]) -> None:
        """Start a daemon thread beside Huey's."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def stop(self, graceful: bool = False) -> None:
        """Let every thread reach a safe point."""
        notify("STOPPING=1", "STATUS=stopping at the next safe point")
        self.engine.stop()
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        super().stop(graceful)
        for thread in self.threads:
            if thread.name == URGENT:
                thread.join(max(0.0, deadline - time.monotonic()))
            elif thread.name == sender.NAME:
                thread.join(2 * sender.LAST_SECONDS)


def build(settings: Settings, journal: Journal) -> tuple[Engine, Host, periodic.Minute]:
    """Build the engine with this host's workflows, periodic tasks, and watchers. Return it with the host and the work of each minute."""
    consumer = {"host": socket.gethostname(), "boot": boot_id(), "pid": str(os.getpid())}
    queue = open_queue(settings.queue.url, queue_key(settings.paths.state_dir / KEY), consumer=consumer)
    engine = make_engine(settings, journal, queue)
    host = open_host(settings, journal, hint=engine.hint)
    set_current_host(host)
    minute = periodic.register(engine, host)
    engine.watchers += [
        queue_watcher(engine, host),
        status_watcher(engine, host),
        journal_reserve.watch(settings.paths.state_dir),
        dropped_watcher(queue, journal),
    ]
    return engine, host, minute


def boot_id() -> str:
    """Return the kernel's boot id, which distinguishes this host from a copy of it; "" if there is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def make_engine(settings: Settings, journal: Journal, queue: HintQueue) -> Engine:
    """Return an engine with two standing signals: the freeze file, and a more urgent run that waits for the lease.

    A bump, or a drain that an operator started, ends as frozen; a dry run or an adoption ends as cancelled; the drain of a deferral retries later.
    """

    def standing_signal(run: Run) -> str | None:
        changes_nothing = run.args.get("dry_run") or run.workflow in YIELDING
        stops_on_freeze = run.workflow in STOPPED_BY_FREEZE and not changes_nothing
        if stops_on_freeze and freeze.is_frozen(settings):
            return "freeze"
        if not journal.query(BLOCKS_URGENT_RUN, run.id, run.priority, time.time()):
            return None
        if stops_on_freeze:
            return "freeze"
        return "cancel" if changes_nothing else YIELD if run.workflow == "drain" else None

    def on_not_undone(run: Run, reason: str) -> None:
        freeze.freeze(settings, journal, f"ROLLBACK FAILED in {run.id}: {reason}", by=run.id)
        logger.error("FROZEN: ROLLBACK FAILED in {}: {}", run.id, reason)

    return Engine(
        journal, queue, WORKFLOWS, standing_signal=standing_signal, on_not_undone=on_not_undone, words=RunWords()
    )


def consume(settings: Settings) -> None:
    """Run the consumer until SIGTERM, SIGINT, or SIGHUP. Raises ConsumerError, JournalError, or another T3flowError if it cannot start."""
    schedule.zone(settings)  # fail now for an unknown time zone, rather than bump at another hour
    create_state_dir(settings.paths.state_dir)
    with only_consumer(settings.paths.state_dir):
        journal = open_journal(settings, create=True)
        tables.migrate_facts(journal)
        counters.install(journal)
        downgrades.record_program(journal)
        engine, host, minute = build(settings, journal)
        heartbeats = Heartbeats()
        worker = Worker(engine, heartbeats)
        publish_settings(host, engine.queue.name)  # the journal can be written
        for correction in prepare(settings.paths.state_dir):
            logger.warning("{}; corrected", correction)
        notify("STATUS=ending processes that a killed consumer left")
        ended = orphans.end_orphans(host.children.lock_path, ORPHAN_PATIENCE_SECONDS)
        if ended:
            logger.warning("ended {} processes that a killed consumer left", ended)
        resumption.resume_suspended(host)
        periodic.remove_stale_scratch(host)
        update_launcher(host)
        with suppress(Exception):  # the queue thread waits for an unavailable queue
            engine.queue.storage.delete_other_queues()
        engine.watchers.append(lambda: heartbeats.beat("watch"))
        worker.start_thread("watchdog", lambda: feed_watchdog(heartbeats, engine.stopping))
        worker.start_thread("watch", engine.watch)
        worker.start_thread("queue", engine.watch_queue)
        worker.start_thread("observer", lambda: keep_observed(host, engine.stopping))
        if settings.metrics.textfile or settings.metrics.listen:
            worker.start_thread("metrics", lambda: publish_metrics(host, engine.stopping))
        worker.start_thread(sender.NAME, sender.Sender(host, engine.stopping, heartbeats).run)
        worker.start_thread(URGENT, engine.advance_urgent)
        minute()
        worker.start_thread("clock", lambda: minute.repeat(lambda: heartbeats.beat("clock")))
        worker.start_thread("verify", Verifier(host, engine.stopping).repeat)
        worker.start_thread(
            "spools", lambda: spools.watch(host, engine.hint, engine.stopping, lambda: heartbeats.beat("spools"))
        )
        if settings.fleet.url:
            worker.start_thread("fleet", lambda: keep_fleet(host, engine.stopping))
        else:
            rejections.forget_other_hosts(journal, [])
        notify("READY=1")
        logger.info("consumer {} is ready", os.getpid())
        worker.run()


def publish_metrics(host: Host, stopping: threading.Event) -> None:
    """Publish metrics until the consumer stops. Imports what that needs only where the settings ask for it."""
    from t3flow.service.metrics.publisher import publish

    publish(host, stopping)


def keep_fleet(host: Host, stopping: threading.Event) -> None:
    """Keep this host a member of its fleet until the consumer stops. Imports what that needs only where the settings ask for it."""
    from t3flow.fleet.keeper import keep

    keep(host, stopping)


def update_launcher(host: Host) -> None:
    """Replace the launcher of another version of t3flow by this version's, by one rename. Leaves a foreign file alone. Idempotent."""
    paths = host.settings.paths
    try:
        text = launcher.launcher_text(paths.versions_dir, sandbox=host.settings.serve.backend == "process")
        if launcher.is_launcher(paths.launcher) and paths.launcher.read_text() != text:
            launcher.install_launcher(
                paths.launcher, paths.versions_dir, sandbox=host.settings.serve.backend == "process"
            )
            logger.info("updated the launcher {}", paths.launcher)
    except OSError as error:
        logger.warning(
            "the launcher {} cannot be updated ({}); run: t3flow doctor --fix", paths.launcher, error.strerror
        )


def queue_watcher(engine: Engine, host: Host) -> Callable[[], None]:
    """Return a watcher that records facts: why the queue cannot be used, or soon cannot, and which other consumers use it."""
    noted: dict[str, Any] = {"waiting_for": None, QUEUE_FAULT: None, QUEUE_SHARED: None}

    def watch() -> None:
        shared = sorted(f"{each['host']} (pid {each['pid']})" for each in engine.other_consumers)
        fault, known = engine.queue_fault, noted[QUEUE_FAULT]
        present = {
            "waiting_for": "the queue" if engine.queue_unavailable.is_set() else None,
            QUEUE_FAULT: fault and {**fault._asdict(), "since": known["since"] if known else time.time()},
            QUEUE_SHARED: shared or None,
        }
        for key, value in present.items():
            if value != noted[key]:
                facts.write(host.journal, key, value)
                noted[key] = value
                if key == QUEUE_SHARED and value:
                    logger.error(
                        "other consumers take messages from this host's queue: {}; see t3flow doctor", ", ".join(value)
                    )

    return watch


def create_state_dir(state_dir: Path) -> None:
    """Create the state folder with its spools. Idempotent. Raises ConsumerError."""
    try:
        create_folders(state_dir)
        (state_dir / LOCK).touch(mode=0o600)
    except OSError as error:
        raise ConsumerError(
            f"{state_dir} cannot be used ({error.strerror}); create it and give it to the account that runs the consumer"
        ) from error


def publish_settings(host: Host, queue_name: str) -> None:
    """Record the settings of this process, which are in force, for other commands. URLs may have a password, so they are in files."""
    settings = host.settings
    write_atomically(settings.paths.state_dir / QUEUE_URL, settings.queue.url, 0o600)
    write_atomically(settings.paths.state_dir / FLEET_FILE, as_text(settings), 0o600)
    facts.write(
        host.journal,
        "consumer",
        {
            "pid": os.getpid(),
            "started": started.started if (started := proc.stat_of(os.getpid())) else None,
            "settings": describe(settings),
            "since": time.time(),
            "queue_name": queue_name,
            "pin_source": settings.sources["track.pin"],
            "pin": settings.track.pin,
        },
    )
    facts.write(host.journal, "waiting_for", None)
    facts.write(host.journal, QUEUE_FAULT, None)
    facts.write(host.journal, QUEUE_SHARED, None)
    facts.write(host.journal, METRICS_PROBLEMS, None)
    rules = settings.deferral._asdict()
    if facts.read(host.journal, "deferral_rules") != rules:
        facts.write(host.journal, "deferral_rules", rules)
        periodic.wake_all_drains(host)
