"""What t3flow itself does to a user's pairing, and when: its own probes, and the time in which it restarts a server.

Noted as facts, one list of [begin, end] a user, so that what the dispatch logs meanwhile is blamed on no build. A probe within a restart needs no
note of its own: the restart ends with it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host import records

KEPT_SECONDS = 3600.0
"""How long it is remembered; also the longest that a restart which was never finished counts as one."""
AFTERMATH_SECONDS = 10.0
"""A browser's request that met a restarting server fails when the dispatch's two exchanges, 5 s each, have waited in vain."""
PROBE_SECONDS = 60.0
"""No probe, and no line that the dispatch logs of it, takes longer."""
LAG_SECONDS = 1.0
"""How much later than the answer its line may be dated."""

Spans = list[list[float | None]]


def restarting(journal: Journal, user: str) -> None:
    """The user's server is about to be away because of us. Repeating it changes nothing."""
    _change(
        journal, user, lambda spans: spans if any(end is None for _, end in spans) else [*spans, [time.time(), None]]
    )


def restarted(journal: Journal, user: str) -> None:
    """The user's server is back, or was left as it was; who met it while it was away may still hear of it for a moment."""
    over = time.time() + AFTERMATH_SECONDS
    _change(journal, user, lambda spans: [[begin, over if end is None else end] for begin, end in spans])


@contextmanager
def probing(journal: Journal, user: str) -> Iterator[None]:
    """Within, the user's pairing is tried by us. After a failure the dispatch may be at it for a moment still; after a kill, for PROBE_SECONDS."""
    begin = time.time()
    _change(journal, user, lambda spans: [*spans, [begin, begin + PROBE_SECONDS]])
    after = AFTERMATH_SECONDS
    try:
        yield
        after = LAG_SECONDS
    finally:
        over = time.time() + after
        _change(journal, user, lambda spans: [[since, over if since == begin else end] for since, end in spans])


def was_ours(journal: Journal, user: str, earliest: float, latest: float) -> bool:
    """Whether something at a time from `earliest` to `latest` (epoch seconds) may have been of our doing."""
    spans: Spans = records.fact(journal, _key(user)) or []
    return any(
        begin is not None and begin <= latest and earliest <= (begin + KEPT_SECONDS if end is None else end)
        for begin, end in spans
    )


def begun(journal: Journal, user: str) -> float | None:
    """Return when the restart began that is under way (epoch seconds), or None: one that was never finished counts as over after KEPT_SECONDS."""
    spans: Spans = records.fact(journal, _key(user)) or []
    oldest = time.time() - KEPT_SECONDS
    return next((begin for begin, end in spans if end is None and begin is not None and begin > oldest), None)


def _key(user: str) -> str:
    return f"ours:{user}"


def _change(journal: Journal, user: str, change: Callable[[Spans], Spans]) -> None:
    def changed(known: Any) -> Spans | None:
        oldest = time.time() - KEPT_SECONDS
        return [span for span in change(known or []) if (span[0] if span[1] is None else span[1]) > oldest] or None  # type: ignore[operator]

    records.change_fact(journal, _key(user), changed, synced=False)
