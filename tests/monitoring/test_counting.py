"""What is counted outside of runs: pairings in the dispatch's log, and dropped messages of the queue."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t3flow.engine.queue import open_queue
from t3flow.host.host import Host
from t3flow.host.pairing import own_activity
from t3flow.host.pairing.log_lines import LogProblem
from t3flow.host.records import counters
from t3flow.service.metrics import counting

FAILED = "2026-06-09 04:00:00 pairing for ada returned 500\n"
FELL_BACK = "paired user=ada endpoint=/api/auth/bootstrap fallback=true\n"
PAIRED = "paired user=ada endpoint=/api/auth/browser-session fallback=false\n"


@pytest.fixture
def host(bare: Callable[..., Host]) -> Host:
    return bare(("ada", "grace"))


def log_of(host: Host) -> Path:
    return Path(host.settings.dispatch.log)


def write(host: Host, text: str) -> None:
    with log_of(host).open("a") as file:
        file.write(text)


def counted(host: Host) -> dict[str, float]:
    return {kind: counter.value for (kind,), counter in counters.read(host.journal).get(counters.DISPATCH, {}).items()}


def test_lines_count_once_and_from_the_first_look_on(host: Host) -> None:
    """What was there before does not count; a repeat counts nothing; a rotated file is read to its end."""
    write(host, FAILED * 3)
    counting.count_pairings(host)
    assert counted(host) == {"failure": 0, "fallback": 0}
    write(host, FAILED * 2 + FELL_BACK + PAIRED + "rubbish\n" + FAILED[:-1])
    for _ in range(3):
        counting.count_pairings(host)
    assert counted(host) == {"failure": 2, "fallback": 1}
    write(host, "\n" + FAILED)
    log_of(host).rename(f"{log_of(host)}.1")
    write(host, FELL_BACK)
    counting.count_pairings(host)
    assert counted(host) == {"failure": 4, "fallback": 2}


def test_a_long_log_is_read_in_parts(host: Host) -> None:
    counting.count_pairings(host)
    write(host, FAILED * 60_000)  # three parts
    counting.count_pairings(host)
    assert counted(host)["failure"] == 60_000


def test_what_t3flow_causes_does_not_count(host: Host) -> None:
    """Its probes, and its restarts; those of another user do."""
    counting.count_pairings(host)
    own_activity.note_restart(host.journal, "ada")
    write(host, FAILED + FAILED.replace("ada", "grace"))
    counting.count_pairings(host)
    assert counted(host) == {"failure": 1, "fallback": 0}


def test_a_kill_between_reading_and_counting_loses_and_doubles_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursor and counts are one commit: with the transaction gone, the next look reads the same lines."""
    counting.count_pairings(host)
    write(host, FAILED * 5)
    with monkeypatch.context() as patched:
        patched.setattr(counters, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            counting.count_pairings(host)
    assert counted(host)["failure"] == 0
    counting.count_pairings(host)
    assert counted(host)["failure"] == 5


def test_a_log_that_is_away_is_a_problem_and_counts_later(host: Host) -> None:
    counting.count_pairings(host)
    with pytest.raises(LogProblem, match="cannot read"):
        counting.count_pairings(host)
    write(host, FAILED)
    counting.count_pairings(host)
    assert counted(host)["failure"] == 1


def test_dropped_messages_are_counted(host: Host, tmp_path: Path) -> None:
    """Rubbish in the queue, in one write; the count goes on with the next consumer."""
    for total in (3.0, 6.0):
        queue = open_queue(f"sqlite://{tmp_path}/queue.db", b"k" * 32)
        watch = counting.dropped_watcher(queue, host.journal)
        watch()
        for _ in range(3):
            queue.storage.enqueue(b"rubbish", 0)
        assert queue.dequeue() is None
        before = time.time()
        watch()
        watch()
        counter = counters.read(host.journal)[counters.DROPPED][()]
        assert counter.value == total
        assert counter.at >= before
