"""Short forms of versions, runs and backups, for tables and sentences: the part that tells one from the others."""

import re
from collections.abc import Iterable

FULL_ID = re.compile(r"(\w+)-\d{8}T\d{6}-([0-9a-f]{6})")
SHORT_ID = re.compile(r"(\w+)-([0-9a-f]{6})")
SNAPSHOT = re.compile(r"state-prebump-.+-(\d{8}T\d{6,}Z)\.sqlite")
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


def short_id(run: str) -> str:
    """Return the short form of a run's id: bump-1fb35f for bump-20260609T041500-1fb35f; others as they are."""
    found = FULL_ID.fullmatch(run)
    return f"{found[1]}-{found[2]}" if found else run


def short_backup(name: str) -> str:
    """Return the short form of a snapshot's name: the time in it; names of other backups as they are."""
    found = SNAPSHOT.fullmatch(name)
    return found[1] if found else name
