"""Environment files as systemd reads them (systemd.exec(5), EnvironmentFile=).

The rules of systemd's parser: lines `KEY=VALUE`, comments after `#` or `;`, quotes, backslashes that escape or continue a line; the last line of a
key counts. A line `export KEY=VALUE` sets nothing, because its key is not a valid name.
"""

import re
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = " \t\n\r"
_ESCAPED_IN_QUOTES = '"\\`$'
"""Characters that a backslash escapes within double quotes; before others it is literal."""
MAX_BYTES = 1024 * 1024


def parse(text: str) -> dict[str, str]:
    """Return the variables of an environment file, except those with an invalid name or a control character. Raise ValueError for a NUL."""
    found: dict[str, str] = {}
    for key, value in _Reader(text).assignments():
        name = key.rstrip(_BLANK)
        has_control = any((ord(letter) < 32 and letter not in "\t\n") or letter == "\x7f" for letter in value)
        if _NAME.fullmatch(name) and not has_control:
            found[name] = value
    return found


class _Reader:
    """The state machine of systemd's `parse_env_file`, with the same names of states; it reads one character at a time."""

    def __init__(self, text: str) -> None:
        if "\0" in text:
            raise ValueError("it contains a NUL")
        self.text = text
        self.found: list[tuple[str, str]] = []
        self.state = "pre_key"
        self.key = self.value = ""
        self.value_end: int | None = None
        """Start of the trailing blanks of an unquoted value, which do not count."""

    def assignments(self) -> Iterable[tuple[str, str]]:
        """Return the keys and values in order."""
        for letter in self.text:
            getattr(self, f"_{self.state}")(letter)
        if self.state in ("pre_value", "value", "value_escape", "single_quote", "double_quote", "double_quote_escape"):
            self._take()
        return self.found

    def _take(self) -> None:
        value = self.value if self.value_end is None or self.state != "value" else self.value[: self.value_end]
        self.found.append((self.key, value))
        self.state, self.key, self.value, self.value_end = "pre_key", "", "", None

    def _pre_key(self, letter: str) -> None:
        if letter in "#;":
            self.state = "comment"
        elif letter not in _BLANK:
            self.state, self.key = "key", letter

    def _key(self, letter: str) -> None:
        if letter in "\n\r":
            self.state, self.key = "pre_key", ""
        elif letter == "=":
            self.state, self.value, self.value_end = "pre_value", "", None
        else:
            self.key += letter

    def _pre_value(self, letter: str) -> None:
        if letter in "\n\r":
            self._take()
        elif letter == "'":
            self.state = "single_quote"
        elif letter == '"':
            self.state = "double_quote"
        elif letter == "\\":
            self.state = "value_escape"
        elif letter not in _BLANK:
            self.state = "value"
            self.value += letter

    def _value(self, letter: str) -> None:
        if letter in "\n\r":
            self._take()
        elif letter == "\\":
            self.state, self.value_end = "value_escape", None
        else:
            if letter not in _BLANK:
                self.value_end = None
            elif self.value_end is None:
                self.value_end = len(self.value)
            self.value += letter

    def _value_escape(self, letter: str) -> None:
        self.state = "value"
        if letter not in "\n\r":  # a backslash at the end of a line continues it
            self.value += letter

    def _single_quote(self, letter: str) -> None:
        if letter == "'":
            self.state = "pre_value"
        else:
            self.value += letter

    def _double_quote(self, letter: str) -> None:
        if letter == '"':
            self.state = "pre_value"
        elif letter == "\\":
            self.state = "double_quote_escape"
        else:
            self.value += letter

    def _double_quote_escape(self, letter: str) -> None:
        self.state = "double_quote"
        if letter in _ESCAPED_IN_QUOTES:
            self.value += letter
        elif letter != "\n":
            self.value += "\\" + letter

    def _comment(self, letter: str) -> None:
        if letter == "\\":
            self.state = "comment_escape"
        elif letter in "\n\r":
            self.state = "pre_key"

    def _comment_escape(self, letter: str) -> None:
        """Since systemd 254 a backslash does not continue a comment."""
        self.state = "pre_key" if letter in "\n\r" else "comment"


def read(files: Iterable[tuple[Path, bool]], before: dict[str, str] | None = None) -> dict[str, str]:
    """Return the variables in `before`, overridden by those of a unit's files in order.

    Each file comes with whether it may be missing. Raise OSError if a file cannot be read, ValueError if systemd would refuse it.
    """
    found = dict(before or {})
    for named, may_be_missing in files:
        is_pattern = any(letter in str(named) for letter in "*?[")
        paths = sorted(named.parent.glob(named.name)) if is_pattern else [named]
        for path in paths:
            try:
                with path.open("rb") as file:
                    found.update(parse(file.read(MAX_BYTES).decode()))
            except (OSError, ValueError):
                if not may_be_missing:
                    raise
    return found
