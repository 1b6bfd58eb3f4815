"""The journal for an account that may only read it, such as that of the status page.

SQLite can read a WAL journal without write access only while its log (-wal) exists. The last writer removes the log when it closes the journal. The
file is complete then and is read as immutable until a writer is back.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn

from t3flow.engine.journal import APPLICATION_ID, BUSY_TIMEOUT_SECONDS, Journal, JournalError

LOG_SUFFIX = "-wal"
TRIES = 3
"""How often a query runs anew because a writer opened or closed the journal meanwhile."""


class ReadOnlyJournal(Journal):
    """The journal at `path`, for reading. Each query opens the file anew, so that it follows writers that come and go.

    Raises JournalError if the file is missing, is not a journal, is damaged, or was written by a newer t3flow.
    """

    def _open(self, create: bool, extra_schema: str) -> None:
        self._check_format(self._pragma("application_id") == APPLICATION_ID, self._pragma("user_version"))
        self._is_open = True

    def _pragma(self, name: str) -> int:
        return int(self.query(f"pragma {name}")[0][0])

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query. Raises JournalError."""
        for left in reversed(range(TRIES)):
            has_log = self._has_log()
            try:
                with closing(self._connect(is_immutable=not has_log)) as connection:
                    rows = connection.execute(sql, parameters).fetchall()
                if has_log or not self._has_log():
                    return rows
            except sqlite3.Error as error:
                if left == 0 or has_log == self._has_log():
                    raise self._unusable(error) from error
        raise self._unusable("a writer opens and closes it all the time")

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """Raise JournalError: this account may only read."""
        self._refuse()
        yield  # never reached: makes this a context manager

    def free_pages(self, pages: int) -> int:
        """Raise JournalError: this account may only read."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise JournalError(f"this account may only read {self.path}; run the command as root")

    def _has_log(self) -> bool:
        return self.path.with_name(self.path.name + LOG_SUFFIX).exists()

    def _connect(self, *, is_immutable: bool) -> sqlite3.Connection:
        mode = "mode=ro&immutable=1" if is_immutable else "mode=ro"
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
        )
