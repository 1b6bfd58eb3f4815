"""Short forms of versions for tables: the end of a nightly version tells it from the others."""

import re
from collections.abc import Iterable

NIGHTLY = re.compile(r"\d+\.\d+\.\d+-\w+\.(\d{8}\.\d+)")


def shortener(versions: Iterable[str | None]) -> dict[str, str]:
    """Given the versions that a listing shows, return the short form of each: "…20260611.503" for 0.0.25-nightly.20260611.503.

    A version whose end another one shares keeps its full form, and so does every other than a nightly.
    """
    known = {version for version in versions if version}
    ends: dict[str, list[str]] = {}
    for version in known:
        if found := NIGHTLY.fullmatch(version):
            ends.setdefault(f"…{found[1]}", []).append(version)
    short = {version: version for version in known}
    return short | {same[0]: end for end, same in ends.items() if len(same) == 1}


def shortened(text: str) -> str:
    """Return a text with the nightly versions in it in their short form; for where the full form is one command away."""
    return NIGHTLY.sub(r"…\1", text)
