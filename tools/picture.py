"""usage: picture.py TARGET.svg: plays the demo on a terminal and draws its first scene."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
ERASE = "\x1b[K"
"""What a line of live progress begins with: the line that stays comes after the last of them."""


def played() -> str:
    """Return what the demo writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    words = [sys.executable, "-m", "t3flow", "demo"]
    child = subprocess.Popen(
        words,
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 65536)
        except OSError:
            break
    if child.wait() != 0:
        sys.exit("the demo did not go as announced")
    return seen.decode().replace("\r\n", "\n")


def main() -> None:
    """Draws from the first scene to the second."""
    text = "\n".join(line.rpartition(ERASE)[2] for line in played().split("\n"))
    begin, end = text.index("A good nightly"), text.index("A nightly that breaks one")
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(Text.from_ansi(text[text.rindex("\n", 0, begin) + 1 : text.rindex("\n", 0, end)].rstrip()))
    drawn = console.export_svg(title="t3flow demo")
    Path(sys.argv[1]).write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    main()
