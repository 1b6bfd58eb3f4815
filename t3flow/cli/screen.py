"""The whole terminal for a live view: drawn without flicker, and given back however the view ends.

The view has the alternate screen, so that what was on the terminal before is there again afterwards. Only lines that have changed are drawn. The
terminal wraps no line, so that each is one row whatever its characters are.
"""

import os
import select
import signal
import socket
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""Alternate screen, no cursor, no wrapping, all clear."""
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
"""Around a drawing: terminals that know it show it at once, others ignore it."""
ENDING = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """The terminal on stdout, within a `with` block. SIGTERM and SIGHUP leave the block with SystemExit; Ctrl-C and Ctrl-Z work as ever."""

    def __init__(self) -> None:
        self._drawn: list[str] = []
        self._former: dict[int, Any] = {}
        self._mode: list[Any] | None = None
        self._woken, self._waking = socket.socketpair()

    def __enter__(self) -> "Screen":
        for end in (self._woken, self._waking):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        for number in ENDING:
            self._former[number] = signal.signal(number, _end)
        self._former[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._redraw)
        self._former[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._woken.close()
        self._waking.close()

    @property
    def rows(self) -> int:
        """Return how many lines fit."""
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, of which those that do not fit are left out. Writes only what has changed."""
        rows = self.rows
        shown = [*lines[:rows], *[""] * (rows - len(lines))]
        before = self._drawn if len(self._drawn) == rows else [None] * rows
        changed = "".join(
            f"\x1b[{number};1H\x1b[K{line}\x1b[0m"
            for number, (line, old) in enumerate(zip(shown, before, strict=True), 1)
            if line != old
        )
        self._drawn = shown
        if changed:
            _write(f"{BEGIN}{changed}{END}")

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until the size changes. Return False once the key q was pressed, or the terminal is gone."""
        keys = [sys.stdin.fileno()] if self._mode is not None else []
        ready, _, _ = select.select([self._woken, *keys], [], [], seconds)
        with suppress(BlockingIOError):
            while self._woken in ready and self._woken.recv(64):
                pass
        if any(each in ready for each in keys):
            with suppress(OSError):
                pressed = os.read(keys[0], 64)
                return bool(pressed) and b"q" not in pressed.lower()
            return False
        return True

    def _take(self) -> None:
        """Take the terminal: its alternate screen, and keys without an echo."""
        self._mode = None
        with suppress(OSError, ValueError, termios.error):
            descriptor = sys.stdin.fileno()
            mode = termios.tcgetattr(descriptor)
            quiet = [*mode[:3], mode[3] & ~(termios.ECHO | termios.ICANON), *mode[4:]]
            termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
            self._mode = mode
        self._drawn = []
        _write(ENTER)

    def _give_back(self) -> None:
        if self._mode is not None:
            with suppress(termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._mode)
        _write(LEAVE)

    def _redraw(self, number: int, frame: FrameType | None) -> None:
        self._drawn = []
        with suppress(OSError):
            _write("\x1b[2J")

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Give the terminal to the shell until it continues this program."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
