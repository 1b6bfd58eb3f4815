"""The result of a check."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A violated prerequisite or invariant: the name of the check, the problem in one line, and the remedy."""

    check: str
    problem: str
    remedy: str


def finding(problem: str, remedy: str) -> Finding:
    """Return a finding; `examine` adds the name of the check."""
    return Finding("", problem, remedy)
