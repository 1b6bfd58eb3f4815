"""Check the form of every answer from a home: it is the user's word about their own data, and a malformed value would fail far from here."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from t3flow import T3flowError

MAX_ANSWER_BYTES = 1024 * 1024
MOST_FILES = 40
MOST_MIGRATIONS = 2000
MOST_TABLES = 1000
MOST_WORK = 100
LARGEST = 2**62
MALFORMED = "the answer from the home is malformed"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


class OwnerProblem(T3flowError):
    """Something in a home cannot be read or done; the text gives the reason."""


def parse_answer(text: bytes) -> dict[str, Any]:
    """Return the JSON object in an answer. Raises OwnerProblem for a problem that the answer names and for anything malformed."""
    try:
        answer = json.loads(text[: MAX_ANSWER_BYTES + 1])
    except (ValueError, RecursionError) as error:
        raise OwnerProblem("the answer from the home is not JSON") from error
    if not isinstance(answer, dict):
        raise OwnerProblem("the answer from the home is not a JSON object")
    if "problem" in answer:
        raise OwnerProblem(one_line(str(answer["problem"])))
    if len(answer) > MOST_MIGRATIONS or not all(_is_well_formed(key, value) for key, value in answer.items()):
        raise OwnerProblem(MALFORMED)
    return answer


def require(answer: dict[str, Any], *keys: str) -> None:
    """Raise OwnerProblem unless all keys are present."""
    if not set(keys) <= set(answer):
        raise OwnerProblem(MALFORMED)


def one_line(text: str) -> str:
    """Return a text as one printable line of at most 300 characters, so that it cannot pass for log lines of t3flow."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def _is_well_formed(key: str, value: Any) -> bool:
    if check := CHECKS.get(key):
        return check(value)
    # a snapshot that the shell tracker left: its migrations, or why they cannot be read
    return key.endswith(".sqlite") and _is_line(key) and (_is_line(value) or _is_schema(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < LARGEST)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value == one_line(value)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and _FILE.fullmatch(value) is not None and ".." not in value


def _is_list(value: Any, most: int, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) <= most and all(is_item(item) for item in value)


def _is_tuple(value: Any, *checks: Callable[[Any], bool]) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(checks)
        and all(check(part) for check, part in zip(checks, value, strict=True))
    )


def _is_map(value: Any, most: int, is_key: Callable[[Any], bool], is_value: Callable[[Any], bool]) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= most
        and all(is_key(name) and is_value(each) for name, each in value.items())
    )


def _is_file_list(value: Any) -> bool:
    return _is_list(value, MOST_FILES, _is_file)


def _is_schema(value: Any) -> bool:
    return _is_list(value, MOST_MIGRATIONS, lambda each: _is_tuple(each, _is_count, _is_line))


def _is_schema_map(value: Any) -> bool:
    return _is_map(value, MOST_FILES, _is_file, lambda each: each is None or _is_schema(each))


def _is_row_map(value: Any) -> bool:
    return _is_map(value, MOST_FILES, _is_file, lambda rows: _is_map(rows, MOST_TABLES, _is_line, _is_count))


def _is_fingerprint(value: Any) -> bool:
    return value is None or _is_map(
        value, MOST_FILES, _is_file, lambda marks: _is_tuple(marks, _is_inode, _is_count, _is_nanoseconds)
    )


def _is_inode(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _is_nanoseconds(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _is_work_list(value: Any) -> bool:
    return _is_list(value, MOST_WORK, lambda piece: _is_tuple(piece, _is_line, _is_line, _is_time))


CHECKS: dict[str, Callable[[Any], bool]] = {
    "level": _is_count,
    "newest": _is_time,
    "due": _is_time,
    "ahead": _is_time,
    "fingerprint": _is_fingerprint,
    "live": _is_file_list,
    "files": _is_file_list,
    "schema": _is_schema_map,
    "rows": _is_row_map,
    "work": _is_work_list,
    "unknown": _is_line,
    "unchanged": lambda value: isinstance(value, bool),
    "replaced": lambda value: (
        isinstance(value, list) or _is_line(value)
    ),  # `backups/replaced.py` checks each list entry
}
