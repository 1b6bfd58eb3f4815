"""How commands print: JSON, tables and wrapped lines, colors where a terminal takes them, and a line of live progress.

On a terminal, or where COLUMNS is set, everything fits the width. Elsewhere, as in a pipe to grep, each line is whole.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import click

from t3flow.state.text import clean, clipped, filled, padded, width_of

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
LEAST_COLUMNS = 16
LEAST_CELL_COLUMNS = 32
"""A table's last column that is narrower than this has its long texts on lines of their own."""
GAP = "  "
CONTROLS = re.compile(r"[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that JSON leaves as they are, and that act on a terminal."""
COMMAND = re.compile(r"^(.*[:;,] )((?:run |see )?(?:sudo |)(?:t3flow|systemctl) .*)$", re.DOTALL)


def dump(document: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document on stdout. A control character in it is escaped, as on a terminal it would act."""
    click.echo(
        CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, indent=indent, ensure_ascii=False))
    )


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
    width, text = columns(stream), clean(text)
    if width is None or width_of(first) + width_of(text) <= width:
        return first + text
    least = max(width, LEAST_COLUMNS + width_of(indent))
    found = COMMAND.match(text)
    if found is None:
        return "\n".join(filled(text, least, first, indent))
    lines = filled(found[1].rstrip(), least, first, indent)
    if width_of(lines[-1]) + 1 + width_of(found[2]) <= width:
        return "\n".join([*lines[:-1], f"{lines[-1]} {found[2]}"])
    return "\n".join([*lines, indent + found[2]])


def with_remedy(text: str, remedy: str, indent: str = GAP) -> str:
    """Return a problem and what mends it: in one line, or the remedy on a line of its own, unbroken, to be copied."""
    width, text = columns(), clean(text)
    if width is None or width_of(text) + width_of(remedy) + 2 <= width:
        return f"{text}; {remedy}"
    return f"{wrapped(text, indent)}\n{indent}{remedy}"


def cut(text: str, before: int = 0) -> str:
    """Return a text cut off where its line of `before` characters more would not fit."""
    width, text = columns(), clean(text)
    return text if width is None else clipped(text, max(LEAST_COLUMNS, width - before))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, is_cut: bool = False) -> None:
    """Print a table on stdout: see `table_lines`."""
    for line in table_lines(headings, rows, is_cut=is_cut):
        click.echo(line)


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]], *, is_cut: bool = False) -> list[str]:
    """Return the lines of a table. Its last column takes what width is left: its texts are broken into lines or, if `is_cut`, cut off.

    Where little is left, a long text is on lines of its own below its row.
    """
    everything = [[" ".join(clean(cell).splitlines()) for cell in row] for row in (headings, *rows)]
    last = len(headings) - 1
    widths = [max(width_of(row[number]) for row in everything) for number in range(last)]
    before = sum(widths) + len(GAP) * last
    width = columns()
    left = max(LEAST_COLUMNS, width - before) if width is not None else None
    lines: list[str] = []
    for number, row in enumerate(everything):
        cells = "".join(padded(cell, size) + GAP for cell, size in zip(row, widths, strict=False))
        first, *more = _cell(row[last], left, before, is_cut)
        line = (cells + first).rstrip()
        lines += [styled(line, bold=True) if number == 0 else line, *more]
    return lines


def _cell(text: str, left: int | None, before: int, is_cut: bool) -> list[str]:
    """Return the lines of a table's last cell: the first for its row, the others indented as they are printed."""
    if left is None or width_of(text) <= left:
        return [text]
    if is_cut:
        return [clipped(text, left)]
    if left < LEAST_CELL_COLUMNS < before:
        indent = GAP * 2
        return ["", *filled(text, before + left, indent, indent, breaks_words=True)]
    first, *more = filled(text, left, breaks_words=True)
    return [first, *(" " * before + line for line in more)]


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
        text = clipped(clean(text), room)
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
