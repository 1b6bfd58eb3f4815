"""What `owner.py` answers, checked for its form: it is a user's word about their own data, and what is malformed would go wrong far from here."""

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
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


class OwnerProblem(T3flowError):
    """Something in a home cannot be read or done. The text says what."""


def parse_answer(text: bytes) -> dict[str, Any]:
    """Return the JSON object that `owner.py` answered. Raises OwnerProblem for a problem that it names and for anything that is no answer."""
    try:
        answer = json.loads(text[: MAX_ANSWER_BYTES + 1])
    except (ValueError, RecursionError) as error:
        raise OwnerProblem("the answer from the home cannot be read") from error
    if not isinstance(answer, dict):
        raise OwnerProblem("the answer from the home is no object")
    if "problem" in answer:
        raise OwnerProblem(one_line(str(answer["problem"])))
    if len(answer) > MOST_MIGRATIONS or not all(_is_as_it_should(key, value) for key, value in answer.items()):
        raise OwnerProblem("the answer from the home is not as it should be")
    return answer


def require(answer: dict[str, Any], *keys: str) -> None:
    """Raise OwnerProblem unless all keys are there."""
    if not set(keys) <= set(answer):
        raise OwnerProblem("the answer from the home is not as it should be")


def one_line(text: str) -> str:
    """Return a text that may want to look like lines of ours in a log, as one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def _is_as_it_should(key: str, value: Any) -> bool:
    if check := CHECKS.get(key):
        return check(value)
    is_name = key.endswith(".sqlite") and _is_line(key)
    return is_name and (
        _is_line(value) or _is_schema(value)
    )  # a snapshot that the shell tracker left: what it has, or why not


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < LARGEST)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value == one_line(value)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and _FILE.fullmatch(value) is not None and ".." not in value


def _are_files(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_FILES and all(_is_file(name) for name in value)


def _is_schema(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MOST_MIGRATIONS
        and all(
            isinstance(each, list) and len(each) == 2 and _is_count(each[0]) and _is_line(each[1]) for each in value
        )
    )


def _are_schemas(value: Any) -> bool:
    return _is_map(value, lambda each: each is None or _is_schema(each))


def _is_map(value: Any, is_value: Callable[[Any], bool]) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_FILES
        and all(_is_file(name) and is_value(each) for name, each in value.items())
    )


def _are_rows(value: Any) -> bool:
    return _is_map(
        value,
        lambda tables: (
            isinstance(tables, dict)
            and len(tables) <= MOST_TABLES
            and all(_is_line(table) and _is_count(count) for table, count in tables.items())
        ),
    )


def _are_marks(value: Any) -> bool:
    return value is None or _is_map(
        value, lambda mark: isinstance(mark, list) and len(mark) == 3 and all(_is_count(part) for part in mark)
    )


def _is_work(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MOST_WORK
        and all(
            isinstance(piece, list)
            and len(piece) == 3
            and _is_line(piece[0])
            and _is_line(piece[1])
            and _is_time(piece[2])
            for piece in value
        )
    )


CHECKS: dict[str, Callable[[Any], bool]] = {
    "level": _is_count,
    "newest": _is_time,
    "due": _is_time,
    "ahead": _is_time,
    "fingerprint": _are_marks,
    "live": _are_files,
    "files": _are_files,
    "schema": _are_schemas,
    "rows": _are_rows,
    "work": _is_work,
    "unknown": _is_line,
    "unchanged": lambda value: isinstance(value, bool),
    "kept": lambda value: isinstance(value, list) or _is_line(value),  # `kept.py` looks at each entry of a list
}
