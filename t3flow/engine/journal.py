"""The journal: one SQLite file that is the source of truth for every run. What it does not record did not happen; the queue only carries hints.

A synced commit is on disk when it returns (WAL, synchronous=FULL). An unsynced commit survives kill -9, but a power cut may lose it together with all
later commits. That is enough where a later synced commit writes it out before anything depends on it: see `Flow._record`.
"""

import itertools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3flow import T3flowError, __version__
from t3flow.engine.files import sync_folder

SCHEMA_VERSION = 1
APPLICATION_ID = 0x74336A6C  # "t3jl"
WRITTEN_BY = "t3flow"
"""Key of `meta`: the newest version of t3flow whose consumer has worked with the journal."""
BUSY_TIMEOUT_SECONDS = 10.0
MAX_LOG_BYTES = 16 * 2**20
"""SQLite truncates its log (-wal) to this after a checkpoint, however large a long read has let it grow."""

SCHEMA = """
create table meta (key text primary key, value text not null) without rowid;
create table runs (
    id text primary key, workflow text not null, args text not null,
    status text not null default 'running',  -- running | succeeded | failed | cancelled
    outcome text, result text,
    priority integer not null default 0,
    created real not null, updated real not null,
    wake_at real,                -- when its next hint is due; null: waits for the lease
    message text,                -- id of its queued message
    claim text,                  -- INCARNATION/NUMBER of the worker that has it
    held text                    -- why its message is revoked: frozen | revoked
) without rowid;
create index runs_pending on runs (status, wake_at);
create index runs_created on runs (created);
create table events (
    run text not null references runs (id), seq integer not null, at real not null,
    kind text not null, step text, attempt integer, data text not null,
    primary key (run, seq)
) without rowid;
create table signals (run text not null, name text not null, at real not null, primary key (run, name)) without rowid;
create table locks (name text primary key, run text not null, since real not null) without rowid;
"""


class JournalError(T3flowError):
    """The journal cannot be used. The text says why, and what to do."""


class NewerJournal(JournalError):
    """A newer t3flow wrote the journal in a format that this one cannot read. Nothing helps but that version, so systemd does not try again."""

    exit_code = 2


class NoSuchRun(JournalError):
    """The journal has no run of that id."""


@dataclass(frozen=True)
class Run:
    """A run as the journal has it. Times are epoch seconds; `revoked` is why its message is revoked, or None."""

    id: str
    workflow: str
    args: dict[str, Any]
    status: str
    outcome: str | None
    result: dict[str, Any]
    priority: int
    created: float
    updated: float
    wake_at: float | None
    message: str | None
    claim: str | None
    revoked: str | None


@dataclass(frozen=True)
class Event:
    """One entry in a run's history."""

    seq: int
    at: float
    kind: str
    step: str | None
    attempt: int | None
    data: dict[str, Any]


class _Connection(sqlite3.Connection):
    """A connection that knows whether its transaction appends an event and so needs a sync."""

    appends = False


class _Opened(dict[str, _Connection]):
    """A thread's connections, closed when the thread ends.

    A connection refers to itself by its cache of statements, so that Python frees it only at some later garbage collection: threads that come and go
    would leave a hundred open files and the memory of their page caches.
    """

    def __del__(self) -> None:
        for connection in self.values():
            with suppress(sqlite3.Error):  # a journal dropped by another thread: the garbage collection closes it
                connection.close()


class Journal:
    """The journal at `path`. With `create`, a missing file is created, with `extra_schema` beside the engine's own tables.

    Raises JournalError if the file is not a journal, is damaged or not writable, or was written by a newer t3flow.
    """

    def __init__(self, path: Path, *, create: bool = False, extra_schema: str = "") -> None:
        self.path = path
        self._local = threading.local()
        self._numbers = itertools.count(1)
        # The last commit of this process that was synced, and all before it with it. 0 at first: what a predecessor wrote may not be on disk.
        self.last_synced = 0
        self.synced_at = time.monotonic()
        self._is_open = False
        try:
            if not create and not path.exists():
                raise JournalError(
                    f"there is no journal at {path}; the consumer creates it when it starts: systemctl start t3flow"
                )
            self._open(create, extra_schema)
        except OSError as error:
            raise self._unusable(error) from error

    def _open(self, create: bool, extra_schema: str) -> None:
        if create and not self.path.exists():
            self._create(extra_schema)
        with self.transaction() as connection:
            version = connection.execute("pragma user_version").fetchone()[0]
            is_journal = connection.execute("pragma application_id").fetchone()[0] == APPLICATION_ID
            self._check_format(is_journal, version)
        if create:
            if (found := self.query("pragma quick_check(1)")[0][0]) != "ok":
                raise self._unusable(found)
            # SQLite syncs the folder for its log only if the connection that created the log is the first to sync it.
            sync_folder(self.path.parent)
        self._is_open = True

    def _check_format(self, is_journal: bool, version: int) -> None:
        """Raise JournalError unless the file is a journal of a format that this t3flow reads."""
        if not is_journal:
            raise JournalError(
                f"journal {self.path} is empty or is not a journal of t3flow; nothing was changed; "
                "restore the file from a copy, or check paths.state_dir"
            )
        if version > SCHEMA_VERSION:
            program = self._program()
            raise NewerJournal(
                f"journal {self.path} was written by {f't3flow {program}' if program else 'a newer t3flow'} (format {version}), "
                f"and this is t3flow {__version__} (format {SCHEMA_VERSION}); nothing was changed; "
                f"install {f't3flow {program}' if program else 'that version'} again: deploy/install.sh of its release"
            )

    def _program(self) -> str:
        """Return the version that wrote a journal of any format; "" if it does not tell."""
        try:
            rows = self.query("select value from meta where key = ?", WRITTEN_BY)
            return str(json.loads(rows[0][0])) if rows else ""
        except (JournalError, ValueError):
            return ""

    def _create(self, extra_schema: str) -> None:
        """Create the file, complete or not at all."""
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            connection.execute("pragma auto_vacuum = incremental")  # lets `free_pages` return space to the file system
            connection.execute("begin")
            for statement in (SCHEMA + extra_schema).split(";\n"):
                connection.execute(statement)
            connection.execute(f"pragma application_id = {APPLICATION_ID}")
            connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
            connection.execute("commit")
        with suppress(FileExistsError):
            os.link(fresh, self.path)  # the first of two creators wins
        fresh.unlink()

    def _unusable(self, reason: object) -> JournalError:
        unchanged = "" if self._is_open else "nothing was changed on the host; "
        remedy = "check that its folder exists, belongs to the caller, and has space, or restore the file from a copy"
        if "locked" in str(reason):
            remedy = "another process holds it (lslocks names it): run this again when it has ended"
        return JournalError(
            f"journal {self.path} cannot be used ({' '.join(str(reason).split())}); {unchanged}{remedy}"
        )

    def _connection(self, synchronous: str) -> _Connection:
        if not hasattr(self._local, "opened"):
            self._local.opened = _Opened()
        opened: _Opened = self._local.opened
        if synchronous not in opened:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, factory=_Connection
            )
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {synchronous}")
            connection.execute(f"pragma journal_size_limit = {MAX_LOG_BYTES}")
            opened[synchronous] = connection
        return opened[synchronous]

    @property
    def last_commit(self) -> int:
        """The number of this thread's last commit, which is on disk once `last_synced` has reached it."""
        return int(getattr(self._local, "number", 0))

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """Open a write transaction: committed (and synced) on a normal exit, rolled back on an exception. Raises JournalError.

        A power cut loses the latest unsynced commits, and never one without all later ones: syncing one commit syncs all before it. SQLite does not
        sync a commit that changes nothing, such as a fact that is set already, so only commits with events advance `last_synced`.
        """
        try:
            connection = self._connection("FULL" if synced else "NORMAL")
            connection.appends = False
            connection.execute("begin immediate")
            try:
                yield connection
                number = self._local.number = next(self._numbers)
                connection.execute("commit")
                if synced and connection.appends:
                    self.last_synced = max(self.last_synced, number)
                    self.synced_at = time.monotonic()
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a read-only query. Raises JournalError."""
        try:
            return self._connection("NORMAL").execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def free_pages(self, pages: int) -> int:
        """Return up to so many unused pages to the file system, and return how many. A no-op for the file of an early t3flow, which reuses them."""
        try:
            connection = self._connection("NORMAL")
            (before,) = connection.execute("pragma page_count").fetchone()
            connection.executescript(f"pragma incremental_vacuum({pages})")  # a plain execute only takes its first step
            (after,) = connection.execute("pragma page_count").fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return int(before - after)

    # Runs -----------------------------------------------------------------------------------------------------

    def runs(self, where: str = "1", *parameters: Any, limit: int = -1) -> list[Run]:
        """Return the runs that match a condition, oldest first. The condition is SQL: constant text, never input."""
        rows = self.query(
            "select id, workflow, args, status, outcome, result, priority, created, updated, wake_at, message, claim, held "
            f"from (select * from runs where {where} order by created desc, id desc limit ?) order by created, id",
            *parameters,
            limit,
        )
        return [Run(*(*row[:2], json.loads(row[2]), *row[3:5], json.loads(row[5] or "{}"), *row[6:])) for row in rows]

    def run(self, run_id: str) -> Run:
        """Return one run. Raises NoSuchRun."""
        found = self.runs("id = ?", run_id)
        if not found:
            raise NoSuchRun(f"there is no run {run_id}; to list them: t3flow runs")
        return found[0]

    def events(self, run_id: str, after: int = 0) -> list[Event]:
        """Return the events of a run in order, from the one after number `after`."""
        rows = self.query(
            "select seq, at, kind, step, attempt, data from events where run = ? and seq > ? order by seq",
            run_id,
            after,
        )
        return [Event(*(*row[:5], json.loads(row[5]))) for row in rows]

    def set_meta(self, key: str, value: Any, *, synced: bool = True) -> None:
        """Set a fact; None deletes it."""
        with self.transaction(synced=synced) as connection:
            if value is None:
                connection.execute("delete from meta where key = ?", (key,))
            else:
                connection.execute("insert or replace into meta values (?, ?)", (key, json.dumps(value)))


def append_event(
    connection: sqlite3.Connection,
    run_id: str,
    kind: str,
    step: str | None = None,
    attempt: int | None = None,
    data: dict[str, Any] | None = None,
) -> Event:
    """Append an event to a run's history, within the caller's transaction."""
    seq = connection.execute("select coalesce(max(seq), 0) + 1 from events where run = ?", (run_id,)).fetchone()[0]
    now = time.time()
    text = json.dumps(data or {})
    if isinstance(connection, _Connection):
        connection.appends = True
    connection.execute("insert into events values (?, ?, ?, ?, ?, ?, ?)", (run_id, seq, now, kind, step, attempt, text))
    connection.execute("update runs set updated = ? where id = ?", (now, run_id))
    return Event(seq, now, kind, step, attempt, json.loads(text))
