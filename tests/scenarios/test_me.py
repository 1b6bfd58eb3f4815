"""`t3flow me`: what a user sees and wishes for, without root. In the sandbox all users are one account; tests/root has real ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psutil
from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, is_busy, results

from t3flow.host.records import wishes
from t3flow.sandbox.host import Sandbox


def me(box: Sandbox, user: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "t3flow", "me", *words]
    environment = {**box.environment, "T3FLOW_ME": user}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def seen(box: Sandbox, user: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(me(box, user, "--json").stdout)
    return found


def until(seconds: float) -> str:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).isoformat()


def deferred_with_a_process(make_box: Callable[..., Sandbox], extra: str = "") -> Sandbox:
    """Return a host where grace is deferred because a process runs in her server's unit, and the window is closed."""
    hour = datetime.now().hour
    window = f'"{(hour + 3) % 24:02}:00-{(hour + 4) % 24:02}:00"'
    box = make_box(["ada", "grace"], consumer=False, extra=extra)
    text = box.config.read_text()
    box.config.write_text(text.replace('window = ""', f"window = {window}"))
    box.start_consumer()
    box.control("grace", "terminal", command=["sleep", "600"])
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred"}
    return box


def test_me_now_moves_the_user_although_a_process_runs_and_the_window_is_closed(
    make_box: Callable[..., Sandbox],
) -> None:
    box = deferred_with_a_process(make_box)
    box.until(lambda: seen(box, "grace")["deferred"] is not None, "grace sees it", 10)
    shown = me(box, "grace").stdout
    assert "Waits" in shown, shown
    assert "t3flow me now" in shown
    assert seen(box, "ada")["running_version"] == NEXT
    assert me(box, "ada").stdout.split("\n")[1] == "Waits       nothing"
    hint = box.settings.paths.state_dir / "users/grace/hint"
    assert hint.read_text().startswith("t3: your server moves to ")
    said = me(box, "grace", "now")
    assert said.returncode == 0, said
    assert said.stdout.startswith("T3flow moves you as soon as no turn is running"), said
    drained(box, "grace", NEXT)
    box.until(lambda: hint.read_text() == "", "nothing waits any more", 15)
    found = seen(box, "grace")
    assert (found["wish"], found["deferred"]) == (None, None)
    assert me(box, "grace", "now").stdout == "Nothing waits for you\n"
    done = [(each["action"], each["by"], each["via"]) for each in box.document("actions")][:2]
    assert done == [("me now", "grace", "user")] * 2


def test_me_now_never_ends_a_turn_and_respects_freeze_and_hold(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    box.t3flow("freeze")
    said = me(box, "grace", "now")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1), said
    assert "tracking is frozen" in said.stderr
    box.t3flow("unfreeze")
    box.t3flow("hold", "grace", "--reason", "x")
    assert "an operator keeps you on your version: held by" in me(box, "grace", "now").stderr
    box.t3flow("release", "grace")
    assert me(box, "grace", "now").returncode == 0
    time.sleep(4)
    assert box.assigned("grace") == FIRST
    assert deferrals(box)["grace"]["waiting_for"] == "active_turn"
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT)


def test_me_later_holds_off_drains_and_bumps_until_the_date(make_box: Callable[..., Sandbox]) -> None:
    """Of an idle user too; it can be withdrawn, and ends by itself. An operator who names the user moves them."""
    box = make_box(["ada", "grace", "linus"])
    for user in ("grace", "linus"):
        assert me(box, user, "later", "--until", until(3600)).returncode == 0
    box.publish(NEXT, {"schema_level": 32})
    found = bump(box)
    assert results(found) == {"ada": "restarted", "grace": "deferred", "linus": "deferred"}
    assert "asked to be moved no earlier than" in found["users"]["grace"]["reason"]
    assert deferrals(box)["grace"]["waiting_for"] == "later"
    assert seen(box, "grace")["wish"]["kind"] == "later"
    assert results(box.document("enqueue", "drain", "--wait")) == {"grace": "deferred", "linus": "deferred"}
    assert me(box, "grace", "later", "--cancel").returncode == 0
    drained(box, "grace", NEXT)
    assert box.assigned("linus") == FIRST
    assert results(box.document("enqueue", "drain", "linus", "--wait")) == {"linus": "restarted"}
    assert me(box, "ada", "later", "--until", until(12)).returncode == 0
    box.publish(LATER, {"schema_level": 32})
    assert results(bump(box))["ada"] == "deferred"
    drained(box, "ada", LATER)


def test_wrong_wishes_are_one_line(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    box.until(lambda: me(box, "ada").returncode == 0, "the consumer has written it", 15)
    for user, words, status, line in (
        ("ada", ["later", "--until", until(8 * 86400)], 1, "is more than 7 days ahead"),
        ("ada", ["later", "--until", "2020-01-01"], 2, "2020-01-01 has passed"),
        ("ada", ["later", "--until", "x" * 5000], 2, "is no date"),
        ("nobody", ["now"], 2, "nobody is not a user of t3 on this host"),
        ("nobody", [], 2, "nobody is not a user of t3 on this host"),
    ):
        said = me(box, user, *words)
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (status, "", 1), said
        assert line in said.stderr, said
    box.end("consumer")
    alive = box.settings.paths.state_dir / "users/alive"
    os.utime(alive, (time.time() - 300, time.time() - 300))
    assert "no consumer is running (last seen 5 min ago)" in me(box, "ada").stdout
    said = me(box, "ada", "now")
    assert (said.returncode, said.stderr.count("\n")) == (4, 1), said


def test_a_loop_of_wishes_costs_nothing_noticeable(make_box: Callable[..., Sandbox]) -> None:
    """Neither time of the consumer nor records: a handful of wishes is carried out, and other users are answered."""
    box = make_box(["ada", "grace"])
    path = box.settings.paths.state_dir / "users/ada/wish.json"
    box.until(path.exists, "the file is there", 15)
    consumer = psutil.Process(box.processes["consumer"].pid)
    before, began, number = consumer.cpu_times(), time.monotonic(), 0
    while time.monotonic() - began < 6:
        number += 1
        path.write_text(json.dumps({"schema": 1, "id": f"{number:032x}", "wish": "now"}))
    after = consumer.cpu_times()
    spent = sum(after[:2]) - sum(before[:2])
    assert spent < 0.1 * 6, f"{spent:.2f} s in 6 s for {number} wishes"
    assert len(box.document("actions")) <= 7
    assert me(box, "grace", "now").returncode == 0


def test_rubbish_in_a_wish_is_ignored(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    folder = box.settings.paths.state_dir / "users/ada"
    box.until((folder / "wish.json").exists, "the file is there", 15)
    for text in (b"{", b"[]", b"\xff", b'{"schema": 1, "id": "x", "wish": "now"}', b"9" * 4096, b"[" * 4000):
        (folder / "wish.json").write_bytes(text)
        time.sleep(0.6)
    with (folder / "wish.json").open("wb") as file:
        file.truncate(2**40)
    time.sleep(0.6)
    assert box.document("actions") == []
    (folder / "wish.json").write_bytes(b"")
    box.kill("consumer")
    box.start_consumer()  # whose allowance is a new one
    assert me(box, "ada", "now").stdout == "Nothing waits for you\n"
    assert "Traceback" not in (box.top / "log/consumer.log").read_text()


def test_killed_between_granting_a_wish_and_answering(make_box: Callable[..., Sandbox]) -> None:
    """The next consumer answers; a wish that was answered is not carried out again by a later one."""
    box = make_box(["ada"])
    folder = box.settings.paths.state_dir / "users/ada"
    box.until((folder / "wish.json").exists, "the file is there", 15)
    box.end("consumer")
    wish_id = "ab" * 16
    (folder / "wish.json").write_text(json.dumps({"schema": 1, "id": wish_id, "wish": "later", "until": until(3600)}))
    script = box.top / "dying.py"
    script.write_text(
        "import os, signal, sys\nfrom t3flow.host.records import actions\n"
        "actions.finish = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from t3flow.cli import main\nsys.argv = ['t3flow', 'consumer']\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=box.environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert wishes.wish_of(box.journal, "ada").kind == "later"
    assert box.document("actions")[0]["result"] is None
    box.start_consumer()
    box.until(lambda: (seen(box, "ada")["answer"] or {}).get("id") == wish_id, "it is answered", 10)
    wishes.put(box.journal, "ada", wish_id, "")  # as if its date had come
    box.end("consumer")
    box.start_consumer()
    time.sleep(2)
    assert wishes.wish_of(box.journal, "ada").kind == ""
    assert len(box.document("actions")) == 1


def test_left_over_processes_hold_a_user_back_for_so_many_days(make_box: Callable[..., Sandbox]) -> None:
    """`deferral.processes_days`: the detail says from when on; then only a turn holds the user back."""
    box = make_box(["ada", "grace"], consumer=False)
    box.config.write_text(box.config.read_text().replace("[deferral]\n", "[deferral]\nprocesses_days = 2\n"))
    box.start_consumer()
    box.control("grace", "terminal", command=["sleep", "600"])
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    box.until(lambda: "t3flow restarts the server" in deferrals(box)["grace"]["detail"], "it says from when on", 15)
    turn = is_busy(box, "grace")
    with box.journal.transaction() as connection:
        connection.execute("update deferrals set since = since - 2 * 86400")
    box.until(lambda: deferrals(box)["grace"]["waiting_for"] == "active_turn", "a turn holds her back", 15)
    assert box.assigned("grace") == FIRST
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT)
