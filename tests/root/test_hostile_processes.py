"""Attacks of a hostile user on the processes that work in his home, and on their output."""

import json
import os
import time

import psutil
import pytest
from world import World, in_one_line

from t3flow.host import orphans
from t3flow.host.backups import restoring
from t3flow.host.owner import answers, program, reader
from t3flow.host.owner.reader import OwnerReader


def test_the_lock_of_the_children_in_his_hands_locks_nobody_out(world: World) -> None:
    """He takes the lock's descriptor out of the reader in his home and hides it in a message: t3flow and a new consumer still work."""
    with OwnerReader(world.host, "mallory"):
        thief = world.begins("steal")
        assert thief.stdout is not None
        assert json.loads(thief.stdout.readline())[:3] == ["EBADF", "EBADF", "EINVAL"]
    assert world.host.children.lock_path.stat().st_size == 0
    assert world.host.children.run(["true"], timeout_seconds=5).code == 0
    began = time.monotonic()
    orphans.end_orphans(world.host.children.lock_path, 0.3)
    assert time.monotonic() - began < 5
    world.nothing_happened()


def test_an_answer_without_end_is_ended(world: World) -> None:
    """He writes without end into the pipe that root reads: memory and time stay bounded."""
    world.begins("flood", "state")
    before = processes_memory()
    silent, writer = os.pipe()
    said = in_one_line(lambda: program.run_as_owner(world.host, "mallory", "state", timeout_seconds=25, stdin=silent))
    os.close(silent)
    os.close(writer)
    assert "prints more than" in said
    assert processes_memory() - before < 100e6
    world.nothing_happened()


def processes_memory() -> int:

    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 60000, b'{"problem": "\\ud800\\nFROZEN"}', b'{"level": 1' + b"0" * 30 + b"}", b'{"level": NaN}', b'{"level": "30"}', b"{}",
        b'{"level": 30, "newest": 1e999, "fingerprint": null}', b'{"level": 30, "fingerprint": [[[]]]}', b'{"level": 30, "fingerprint": {"x": [1, 2]}}',
        b'{"level": 30, "files": ["../x"]}', b'{"level": 30, "schema": {"x.sqlite": [[1, 2]]}}', b'{"level": 30, "schema": {"a/b": null}}',
        b'{"level": 30, "rows": {"x.sqlite": {"t": -1}}}', b'{"level": 30, "work": [["active_turn", "x\\n", null]]}', b'{"level": true}',
        b'{"level": 30, "replaced": "/x\\nROLLBACK FAILED"}', b'{"level": 30, "unchanged": true, "more": 1}', b"\xff\xfe", b"null",
    ],
)  # fmt: skip
def test_a_forged_answer_is_refused(text: bytes) -> None:
    """In one line, whatever the text."""
    said = in_one_line(lambda: answers.require(answers.parse_answer(text), "level"))
    assert said.isprintable()
    assert said


@pytest.mark.parametrize("command", ["state", "backup", "restore"])
def test_who_works_in_his_home_is_held_still(world: World, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """He stops each helper as soon as it runs: it is killed at its timeout, the error names him, and no other user waits."""
    snapshot = world.snapshot()
    monkeypatch.setattr(reader, "START_SECONDS", 1.5)
    world.says("hold", command)
    began = time.monotonic()
    if command == "state":

        def deed() -> None:
            with OwnerReader(world.host, "mallory") as waiting:
                waiting.read([os.getpid()], 0.7)

        limit, words = 6.0, "took over"
    elif command == "backup":
        limit, words, deed = 6.0, "the home of mallory failed", lambda: world.take()
    else:
        limit, words = 6.0, "the home of mallory failed"
        deed = lambda: restoring.restore(world.host, "mallory", snapshot, "replaced-1")  # noqa: E731
    said = in_one_line(deed)
    assert words in said
    assert time.monotonic() - began < limit
    world.nothing_happened()
