"""The sandbox's supervisor runs servers like the units of a real host."""

import os
import time
from collections.abc import Callable

import psutil

from t3flow.sandbox.host import Sandbox


def test_a_server_is_started_restarted_and_stopped(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    first = box.supervise("status", "ada")
    assert first["state"] == "active"
    os.kill(first["main_pid"], 9)
    box.until(
        lambda: box.supervise("status", "ada")["main_pid"] not in (None, first["main_pid"]), "it is started again"
    )
    turn = box_turn(box)
    agent = psutil.Process(box.supervise("status", "ada")["main_pid"]).children(recursive=True)
    assert agent, turn
    stopped = box.supervise("stop", "ada")
    assert stopped["ok"] is True
    assert box.supervise("status", "ada")["state"] == "failed", "exit code 130 counts as a failure, as with systemd"
    assert not any(process.is_running() and process.status() != "zombie" for process in agent)
    time.sleep(1.5)
    assert box.supervise("status", "ada")["main_pid"] is None, "what was stopped stays so"
    box.supervise("reset-failed", "ada")
    box.supervise("start", "ada")
    box.await_pairing("ada")


def box_turn(box: Sandbox) -> str:
    box.await_pairing("ada")
    turn: str = box.control("ada", "turn/start", agent="codex")["turn"]
    return turn


def test_a_crash_loop_ends_failed(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    for _ in range(5):
        pid = box.supervise("status", "ada")["main_pid"]
        if pid:
            os.kill(pid, 9)
        box.until(lambda pid=pid: box.supervise("status", "ada")["main_pid"] != pid, "it is noticed")
        box.until(lambda: box.supervise("status", "ada")["state"] in ("active", "failed"), "it is started again", 5)
    assert box.supervise("status", "ada")["state"] == "failed"


def test_odd_users_are_refused(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    for user in ("../x", "nobody-here", "", "a b"):
        answer = box.supervise("start", user)
        assert answer["ok"] is False
        assert answer["error"]
