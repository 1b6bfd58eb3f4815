"""What a check of the doctor's gives."""

from typing import NamedTuple


class Finding(NamedTuple):
    """Something that is not as it must be: the check, one line about it, and how to mend it."""

    check: str
    what: str
    mend: str


def finding(what: str, mend: str) -> Finding:
    """A finding; the check's name is added to it."""
    return Finding("", what, mend)
