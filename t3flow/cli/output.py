"""How commands print: JSON, tables and wrapped lines, colors where a terminal takes them, and a line of live progress.

On a terminal, or where COLUMNS is set, everything fits the width. Elsewhere, as in a pipe to grep, each line is whole.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

import click

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
LEAST_COLUMNS = 16
GAP = "  "
COMMAND = re.compile(r"^(.*[:;,] )((?:run |see )?(?:sudo |)(?:t3flow|systemctl) .*)$", re.DOTALL)


def dump(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Print a line for people beside the output."""
    click.echo(text, err=True)


def tell(text: str) -> None:
    """Print a sentence on stdout."""
    click.echo(wrapped(text))


def columns(stream: TextIO | None = None) -> int | None:
    """Return the width to fit; None where lines may be of any length."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or None
    except (OSError, ValueError):
        return None


def takes_color(stream: TextIO | None = None) -> bool:
    """Return whether a stream (stdout) is a terminal that takes colors, and the user wants them: see https://no-color.org."""
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_wanted and (stream or sys.stdout).isatty()


def styled(text: str, stream: TextIO | None = None, **style: Any) -> str:
    """Return a text with a style where the stream (stdout) takes one."""
    return click.style(text, **style) if takes_color(stream) else text


def complain(line: str) -> None:
    """Print an error to stderr. Only a terminal gets it wrapped: logs and scripts take one line for each error, whatever COLUMNS says."""
    click.echo(wrapped(line, stream=sys.stderr) if sys.stderr.isatty() else line, err=True)


def wrapped(text: str, indent: str = GAP, first: str = "", stream: TextIO | None = None) -> str:
    """Return a text that begins with `first` broken into lines that fit, those after the first indented.

    A command at its end stays on one line, to be copied, however long it is.
    """
    width = columns(stream)
    if width is None or len(first) + len(text) <= width:
        return first + text
    found = COMMAND.match(text)
    if found is None:
        return "\n".join(_broken(text, width, first, indent))
    lines = _broken(found[1].rstrip(), width, first, indent)
    if len(lines[-1]) + 1 + len(found[2]) <= width:
        return "\n".join([*lines[:-1], f"{lines[-1]} {found[2]}"])
    return "\n".join([*lines, indent + found[2]])


def with_remedy(text: str, remedy: str, indent: str = GAP) -> str:
    """Return a problem and what mends it: in one line, or the remedy on a line of its own, unbroken, to be copied."""
    width = columns()
    if width is None or len(text) + len(remedy) + 2 <= width:
        return f"{text}; {remedy}"
    return f"{wrapped(text, indent)}\n{indent}{remedy}"


def cut(text: str, before: int = 0) -> str:
    """Return a text cut off where its line of `before` characters more would not fit."""
    width = columns()
    room = max(LEAST_COLUMNS, width - before) if width is not None else len(text)
    return text if len(text) <= room else f"{text[: room - 1].rstrip()}…"


def _broken(text: str, width: int, first: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, LEAST_COLUMNS + len(indent)),
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, is_cut: bool = False) -> None:
    """Print a table on stdout. Its last column takes what width is left: its texts are broken into lines or, if `is_cut`, cut off."""
    everything = [list(headings), *(list(row) for row in rows)]
    last = len(headings) - 1
    widths = [max(len(row[number]) for row in everything) for number in range(last)]
    before = sum(widths) + len(GAP) * last
    width = columns()
    left = max(LEAST_COLUMNS, width - before) if width is not None else None
    for number, row in enumerate(everything):
        cells = GAP.join(cell.ljust(size) for cell, size in zip(row, widths, strict=False))
        lines = _cell(row[last], left, is_cut)
        first = f"{cells}{GAP}{lines[0]}".rstrip() if last else lines[0]
        click.echo(styled(first, bold=True) if number == 0 else first)
        for line in lines[1:]:
            click.echo(" " * before + line)


def _cell(text: str, width: int | None, is_cut: bool) -> list[str]:
    """Return the lines of a table's last cell."""
    if width is None or len(text) <= width:
        return [text]
    if is_cut:
        return [f"{text[: width - 1].rstrip()}…"]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


class Progress:
    """A line on stderr that shows what is being done, with a spinner; nothing where stderr is no terminal, or `is_live` is false."""

    def __init__(self, *, is_live: bool = True) -> None:
        self.is_live = is_live and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._frame = 0
        self._shown = False

    def show(self, text: str) -> None:
        """Show what is being done; called again and again, it turns the spinner."""
        if not self.is_live:
            return
        self._frame = (self._frame + 1) % len(FRAMES)
        room = (columns(sys.stderr) or 80) - 3
        text = text if len(text) <= room else f"{text[: room - 1]}…"
        click.echo(f"\r\x1b[K{FRAMES[self._frame]} {text}", err=True, nl=False, color=True)
        self._shown = True

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        click.echo(text, err=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False, color=True)
            self._shown = False
