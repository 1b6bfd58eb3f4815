"""`t3flow watch` in a real terminal: live, resized, ended in each way; and in a pipe."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from scenes import NEXT

from t3flow.cli import screen
from t3flow.sandbox.host import Sandbox
from t3flow.state.text import width_of

PLACE = re.compile(r"\x1b\[(\d+);1H\x1b\[K")
STYLE = re.compile(r"\x1b\[[\d;]*m")
PATIENCE_SECONDS = 30.0


class Terminal:
    """A pseudo-terminal with the program in it, and what a person sees there."""

    def __init__(self, box: Sandbox, *words: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.rows: dict[int, str] = {}
        self.raw = ""
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.resize(columns, rows)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "t3flow", "watch", *words],
            env={**box.environment, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; the kernel sends SIGWINCH."""
        self.rows.clear()
        self.columns = columns
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        ready, _, _ = select.select([self.master], [], [], 0.1)
        part = ""
        with suppress(OSError):
            part = os.read(self.master, 65536).decode(errors="replace") if ready else ""
        self.raw += part
        while "\x1b[2J" in part:
            self.rows.clear()
            part = part.partition("\x1b[2J")[2]
        pieces = PLACE.split(part)
        for number, line in zip(pieces[1::2], pieces[2::2], strict=True):
            self.rows[int(number)] = STYLE.sub("", line.partition(screen.END)[0])

    @property
    def text(self) -> str:
        return "\n".join(self.rows[number].rstrip() for number in sorted(self.rows))

    def until(self, holds: Callable[[str], object], what: str) -> None:
        """Read until the picture is as wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds(self.text):
            assert time.monotonic() < deadline, f"not seen: {what}\n{self.text}"
            assert self.child.poll() is None, self.raw
            self.read()

    def ended(self) -> int:
        """Wait for the end of the program, and check that it has given the terminal back."""
        while self.child.poll() is None:
            self.read()
        self.read()
        assert self.raw.rstrip().endswith(screen.LEAVE), self.raw[-200:]
        assert termios.tcgetattr(self._slave) == self.before
        for descriptor in (self.master, self._slave):
            os.close(descriptor)
        return int(self.child.wait())


@pytest.fixture
def box(make_box: Callable[..., Sandbox]) -> Sandbox:
    return make_box(["ada", "grace"])


def test_a_run_is_seen_as_it_happens_at_any_size(box: Sandbox) -> None:
    """The steps of a bump appear; after each resize everything fits; Ctrl-C ends it with the terminal as before."""
    seen = Terminal(box)
    seen.until(lambda text: "none in progress" in text and "grace" in text, "the host")
    box.publish(NEXT, {"schema_level": 32})
    box.t3flow("enqueue", "bump")
    seen.until(lambda text: "Backed up ada" in text, "a step")
    for columns, rows in ((40, 20), (200, 50), (60, 10), (80, 24)):
        seen.resize(columns, rows)
        seen.until(lambda text: text.startswith("t3flow on"), f"the title at {columns} columns")
        assert max(seen.rows) <= rows
        assert max(width_of(line) for number, line in seen.rows.items() if number == 1) <= columns
    seen.until(lambda text: "updated" in text and "2 restarted" in text, "the outcome")
    os.write(seen.master, b"\x03")
    assert seen.ended() == 0


def test_q_ends_it_and_no_key_is_echoed(box: Sandbox) -> None:
    seen = Terminal(box)
    seen.until(lambda text: "ada" in text, "the host")
    os.write(seen.master, b"xyzzy")
    box.t3flow("freeze", "--reason", "demo day")
    seen.until(lambda text: "demo day" in text, "the freeze")
    os.write(seen.master, b"q")
    assert seen.ended() == 0
    assert "xyzzy" not in seen.raw


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(box: Sandbox, number: signal.Signals) -> None:
    seen = Terminal(box)
    seen.until(lambda text: "ada" in text, "the host")
    seen.child.send_signal(number)
    assert seen.ended() == 128 + number


def test_stopped_and_continued(box: Sandbox) -> None:
    """Ctrl-Z gives the terminal to the shell; fg takes it again."""
    seen = Terminal(box)
    seen.until(lambda text: "ada" in text, "the host")
    os.write(seen.master, b"\x1a")
    os.waitid(os.P_PID, seen.child.pid, os.WSTOPPED | os.WNOWAIT)
    seen.read()
    assert seen.raw.endswith(screen.LEAVE)
    assert termios.tcgetattr(seen._slave) == seen.before
    seen.rows.clear()
    seen.child.send_signal(signal.SIGCONT)
    seen.until(lambda text: "ada" in text, "the host again")
    os.write(seen.master, b"q")
    assert seen.ended() == 0


def test_it_says_that_the_consumer_is_down_and_uses_no_color(box: Sandbox) -> None:
    box.kill("consumer")
    seen = Terminal(box, NO_COLOR="1")
    seen.until(lambda text: "No consumer is running" in text, "the problem")
    box.start_consumer()
    seen.until(lambda text: "No consumer is running" not in text, "the consumer")
    os.write(seen.master, b"q")
    assert seen.ended() == 0
    assert not set(STYLE.findall(seen.raw)) - {"\x1b[0m"}


def test_only_what_changes_is_drawn(box: Sandbox) -> None:
    """A host on which nothing happens costs the connection nothing."""
    seen = Terminal(box)
    seen.until(lambda text: "ada" in text, "the host")
    for _ in range(10):
        seen.read()
    drawn = len(seen.raw)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        seen.read()
    assert len(seen.raw) - drawn < 400, seen.raw[drawn:]
    os.write(seen.master, b"q")
    assert seen.ended() == 0


class Pipe:
    """The program with a pipe for its output."""

    def __init__(self, box: Sandbox, *words: str) -> None:
        command = [sys.executable, "-m", "t3flow", "watch", *words]
        self.child = subprocess.Popen(command, env=box.environment, stdout=subprocess.PIPE, text=True)

    def until(self, word: str) -> str:
        """Return the first line with a word."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            assert "\x1b" not in line
            if word in line:
                return line
        raise AssertionError(f"ended without {word}")

    def end(self) -> int:
        self.child.send_signal(signal.SIGINT)
        self.child.communicate(timeout=30)
        return self.child.returncode


def test_in_a_pipe_each_change_is_one_line(box: Sandbox) -> None:
    box.t3flow("freeze", "--reason", "demo day")
    seen = Pipe(box)
    assert "demo day" in seen.until("Frozen")
    box.t3flow("unfreeze")
    assert re.match(r"\d\d:\d\d:\d\d over: Frozen", seen.until("Frozen"))
    box.publish(NEXT, {"schema_level": 32})
    box.t3flow("enqueue", "bump")
    assert seen.until("Backed up ada").count("bump-") == 1
    seen.until("updated: 2 restarted")
    box.kill("consumer")
    seen.until("No consumer is running")
    assert seen.end() == 0


def test_json_gives_one_document_for_each_change(box: Sandbox) -> None:
    seen = Pipe(box, "--json")
    assert json.loads(seen.until("{"))["frozen"] is None
    box.t3flow("freeze", "--reason", "demo day")
    found = json.loads(seen.until("demo day"))
    assert (found["schema"], found["frozen"]["reason"]) == (1, "demo day")
    assert seen.end() == 0
