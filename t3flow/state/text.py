"""Text as a terminal shows it: how many columns it takes, and how it is cut or broken to fit them.

Names and reasons come from users, processes and packages. A control character in them could move the cursor, set a title, or hide text, so none gets
to a terminal. East Asian and emoji characters take two columns, combining ones none.
"""

import unicodedata
from collections.abc import Iterator

REPLACEMENT = "�"
INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")
"""Categories of characters that are not shown as such: controls, marks of direction, line separators, surrogates."""


def clean(text: str) -> str:
    """Return a text without characters that act on a terminal; tabs and line breaks are kept."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        REPLACEMENT if unicodedata.category(letter) in INVISIBLE and letter not in "\n\t" else letter for letter in text
    )


def width_of(text: str) -> int:
    """Return how many columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width(letter) for letter in text)


def _width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def padded(text: str, width: int) -> str:
    """Return a text with blanks after it up to a width."""
    return text + " " * (width - width_of(text))


def clipped(text: str, room: int) -> str:
    """Return a text that takes at most `room` columns, with … for what is left out."""
    if width_of(text) <= room:
        return text
    taken, end = 0, 0
    for letter in text:
        if (taken := taken + _width(letter)) > room - 1:
            break
        end += 1
    return f"{text[:end].rstrip()}…"


def filled(text: str, width: int, first: str = "", indent: str = "", *, breaks_words: bool = False) -> list[str]:
    """Return a text, after `first`, broken into lines of a width, indented after the first. Longer words are whole unless `breaks_words`."""
    lines: list[str] = []
    line, empty = first, True
    for word in _words(text, width - width_of(indent), breaks_words=breaks_words):
        if not empty and width_of(line) + 1 + width_of(word) > width:
            lines.append(line)
            line, empty = indent, True
        line = f"{line}{word}" if empty else f"{line} {word}"
        empty = False
    return [*lines, line]


def _words(text: str, room: int, *, breaks_words: bool) -> Iterator[str]:
    """Return the words of a text; with `breaks_words` in pieces that take at most `room` columns."""
    for word in text.split():
        piece, taken = "", 0
        for letter in word if breaks_words and width_of(word) > room else ():
            if taken + _width(letter) > room:
                yield piece
                piece, taken = "", 0
            piece, taken = piece + letter, taken + _width(letter)
        yield piece or word
