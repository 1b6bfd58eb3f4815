"""Commands beside a consumer that starts or is gone: what they run is no orphan of a consumer's, and is ended by none."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from t3flow.cli.base import open_host
from t3flow.host.children import Children
from t3flow.host.host import CHILDREN_LOCK
from t3flow.sandbox.environment import environment_of
from t3flow.sandbox.host import Sandbox
from t3flow.service import consumer
from t3flow.state.doctor import examine

SLOW = "#!/bin/sh\ntouch {begun}\nsleep {seconds}\necho 11.0.0\n"


def slow_npm(box: Sandbox, seconds: float) -> Path:
    """Return an npm that takes its time; returns the file by which it shows that it has begun."""
    program, begun = box.top / "bin/npm-slow", box.top / "begun"
    program.write_text(SLOW.format(begun=begun, seconds=seconds))
    program.chmod(0o755)
    box.config.write_text(box.config.read_text().replace("[npm]\n", f'[npm]\ncommand = "{program}"\n'))
    return begun


def orphans_said(box: Sandbox) -> list[str]:
    found = examine(open_host(box.settings), ["npm", "consumer"])
    return [each.problem for each in found if "children of a consumer" in each.problem]


def test_the_doctors_own_child_is_no_orphan(make_box: Callable[..., Sandbox]) -> None:
    """npm runs for it while it looks for what a consumer has left; a real one is found."""
    box = make_box(["ada"], consumer=False)
    slow_npm(box, 1.5)
    with environment_of(box.environment):
        assert orphans_said(box) == []
        orphan = Children(box.settings.paths.state_dir / CHILDREN_LOCK).start(["sleep", "60"])
        try:
            assert orphans_said(box) == ["children of a consumer that died still run"]
        finally:
            orphan.kill()
            orphan.communicate()


def test_a_consumer_that_starts_ends_no_commands_children(make_box: Callable[..., Sandbox]) -> None:
    """The command runs longer than the consumer has patience with orphans; neither waits for the other."""
    box = make_box(["ada"], consumer=False)
    begun = slow_npm(box, consumer.ORPHAN_PATIENCE_SECONDS + 3)
    words = [sys.executable, "-m", "t3flow", "doctor"]
    doctor = subprocess.Popen(words, env=box.environment, stdout=subprocess.PIPE, text=True)
    box.until(begun.exists, "npm runs for the doctor")
    began = time.monotonic()
    box.start_consumer()
    assert time.monotonic() - began < consumer.ORPHAN_PATIENCE_SECONDS
    said, _ = doctor.communicate(timeout=60)
    assert "npm" not in said, said
    assert "ended" not in (box.top / "log/consumer.log").read_text()
    assert box.t3flow("verify").returncode == 0


def test_a_verify_goes_on_while_consumers_come_and_go(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"], consumer=False)
    failures: list[str] = []
    stop = threading.Event()

    def verify() -> None:
        while not stop.is_set():
            said = box.t3flow("verify")
            if said.returncode != 0:
                failures.append(said.stdout + said.stderr)

    thread = threading.Thread(target=verify)
    thread.start()
    try:
        for _ in range(3):
            box.start_consumer()
            box.kill("consumer")
    finally:
        stop.set()
        thread.join(60)
    assert failures == []
