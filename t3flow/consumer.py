"""The consumer: one process on the host that takes tasks from the queue. What the systemd service starts."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huey.consumer import Consumer
from loguru import logger

from t3flow import periodic
from t3flow.engine.engine import Engine
from t3flow.engine.flow import YIELD
from t3flow.engine.journal import Journal, Run
from t3flow.engine.queue import HintQueue, open_queue, queue_key
from t3flow.errors import T3flowError
from t3flow.files import make_folder
from t3flow.host import freeze, launcher, records, resuming
from t3flow.host.host import Host, open_host, take_charge
from t3flow.notify import notify, status_watch
from t3flow.settings import Settings
from t3flow.workflows import HELD_BY_FREEZE, WORKFLOWS, YIELDING

JOURNAL = "journal.db"
KEY = "queue.key"
LOCK = "consumer.lock"
WORKERS = 4
ORPHAN_PATIENCE_SECONDS = 10.0
SHUTDOWN_SECONDS = 85.0
KEEPS_WAITING = """
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
    return Journal(settings.paths.state_dir / JOURNAL, create=create, extra_schema=records.SCHEMA)


class Worker(Consumer):  # type: ignore[misc]
    """Huey's consumer, which on SIGTERM also tells the engine, so that no long step is waited for."""

    engine: Engine

    def stop(self, graceful: bool = False) -> None:
        notify("STOPPING=1", "STATUS=letting what is in hand come to a safe point")
        self.engine.stop()
        super().stop(graceful)


def build(settings: Settings, journal: Journal) -> tuple[Engine, Host]:
    """The engine on this host, with its workflows and periodic tasks."""
    queue = open_queue(settings.queue.url, queue_key(settings.paths.state_dir / KEY))
    engine = make_engine(settings, journal, queue)
    host = open_host(settings, journal, hint=engine.hint)
    take_charge(host)
    periodic.register(engine, host)
    engine.watchers += [queue_watch(engine, host), status_watch(engine, host)]
    return engine, host


def make_engine(settings: Settings, journal: Journal, queue: HintQueue) -> Engine:
    """Return an engine that asks runs to free the host by what stands in no table of signals: the freeze file, and a more urgent run that waits.

    A bump or a drain that an operator began ends as frozen, a dry run or an adoption as cancelled; the drain of a deferral tries again later.
    """

    def standing_signal(run: Run) -> str | None:
        changes_nothing = run.args.get("dry_run") or run.workflow in YIELDING
        is_held = run.workflow in HELD_BY_FREEZE and not changes_nothing
        if is_held and freeze.is_frozen(settings):
            return "freeze"
        if not journal.query(KEEPS_WAITING, run.id, run.priority, time.time()):
            return None
        return "freeze" if is_held else "cancel" if changes_nothing else YIELD if run.workflow == "drain" else None

    def on_lost(run: Run, reason: str) -> None:
        freeze.freeze(settings, journal, f"ROLLBACK FAILED in {run.id}: {reason}", by=run.id)
        logger.error("FROZEN: ROLLBACK FAILED in {}: {}", run.id, reason)

    return Engine(journal, queue, WORKFLOWS, standing_signal=standing_signal, on_lost=on_lost)


def consume(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises ConsumerError, JournalError, T3flowError when it cannot start."""
    prepare(settings.paths.state_dir)
    with only_consumer(settings.paths.state_dir):
        journal = open_journal(settings, create=True)
        engine, host = build(settings, journal)
        introduce(host)
        notify("STATUS=ending what a consumer that died may have left")
        ended = host.children.end_orphans(ORPHAN_PATIENCE_SECONDS)
        if ended:
            logger.warning("ended {} processes that a consumer which died had left", ended)
        resuming.resume_paused(host)
        periodic.sweep(host)
        renew_launcher(host)
        threading.Thread(target=engine.watch, name="watch", daemon=True).start()
        first_look(engine, host)
        worker = Worker(
            engine.queue,
            workers=WORKERS,
            initial_delay=0.05,
            max_delay=0.25,
            graceful_signal="TERM",
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        worker.engine = engine
        notify("READY=1")
        logger.info("consumer {} is ready", os.getpid())
        worker.run()


def renew_launcher(host: Host) -> None:
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


def first_look(engine: Engine, host: Host) -> None:
    """Resumes what is pending. A queue that does not answer yet is waited for by the watcher."""
    try:
        periodic.tick(engine, host)
    except Exception as error:
        engine.queue_away.set()
        logger.warning("waiting for the queue: {}", error)


def queue_watch(engine: Engine, host: Host) -> Callable[[], None]:
    """A watcher that notes for `status` while the queue does not answer."""
    noted: list[str | None] = [None]

    def watch() -> None:
        waiting_for = "the queue" if engine.queue_away.is_set() else None
        if waiting_for != noted[0]:
            records.set_fact(host.journal, "waiting_for", waiting_for)
            noted[0] = waiting_for

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


def introduce(host: Host) -> None:
    """Notes for other commands which settings act: those of this process."""
    settings = host.settings
    records.set_fact(
        host.journal,
        "consumer",
        {
            "pid": os.getpid(),
            "since": time.time(),
            "queue_url": settings.queue.url,
            "pin_source": settings.sources["track.pin"],
            "pin": settings.track.pin,
        },
    )
    records.set_fact(host.journal, "waiting_for", None)
    rules = settings.deferral._asdict()
    if records.fact(host.journal, "deferral_rules") != rules:
        records.set_fact(host.journal, "deferral_rules", rules)
        periodic.ask_all(host)
