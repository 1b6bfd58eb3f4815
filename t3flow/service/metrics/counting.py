"""Counts what happens outside of runs: pairings that the dispatch logs, and messages that the queue drops."""

from collections import Counter
from collections.abc import Callable

from t3flow.engine.journal import Journal
from t3flow.engine.queue import HintQueue
from t3flow.host.host import Host
from t3flow.host.pairing import dispatch_log, own_activity
from t3flow.host.pairing.log_lines import Cursor
from t3flow.host.records import counters, facts

CURSOR = "dispatch_counted"
"""Fact: the cursor in the dispatch's log up to which lines are counted."""
KINDS = ("failure", "fallback")
MAX_PARTS = 20
"""Parts of the log, of 1 MB or 2000 entries, that one call reads."""


def count_pairings(host: Host) -> None:
    """Count what the dispatch has logged since the last call, except what t3flow caused. Raises LogProblem.

    Counts and cursor are one transaction, so that a kill neither loses nor doubles a line. Counting begins at the end of the log.
    """
    cursor = facts.read(host.journal, CURSOR)
    if cursor is None:
        _record(host.journal, dispatch_log.end_of_log(host), Counter())
        return
    for _ in range(MAX_PARTS):
        part = dispatch_log.read(host, cursor)
        lines = Counter(part.lines)
        counted: Counter[str] = Counter()
        for line, number in lines.items():
            if not own_activity.is_own(host.journal, line.user, line.earliest, line.latest):
                counted[line.kind] += number
        _record(host.journal, part.cursor, counted)
        cursor = part.cursor
        if not part.more:
            return


def _record(journal: Journal, cursor: Cursor, counted: Counter[str]) -> None:
    with journal.transaction(synced=False) as connection:
        facts.put(connection, CURSOR, cursor)
        for kind in KINDS:
            counters.add(connection, counters.DISPATCH, [kind], counted[kind])


def dropped_watcher(queue: HintQueue, journal: Journal) -> Callable[[], None]:
    """Return a watcher that counts the messages that the queue has dropped, in one write for many of them."""
    noted = 0

    def watch() -> None:
        nonlocal noted
        if (dropped := queue.dropped) > noted:
            with journal.transaction(synced=False) as connection:
                counters.add(connection, counters.DROPPED, [], dropped - noted)
            noted = dropped

    return watch
