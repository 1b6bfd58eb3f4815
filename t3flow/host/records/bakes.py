"""Which versions were not watched to the end: other hosts of a fleet do not count them as verified."""

from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host.records import facts
from t3flow.host.records.facts import BAKE_CUT_SHORT

MOST_VERSIONS = 50


def cut_short(journal: Journal) -> list[str]:
    """Return the versions whose last watch ended without a verdict, as after a cancel or when the watch of another version replaced it."""
    return _versions(facts.read(journal, BAKE_CUT_SHORT))


def note_end(journal: Journal, version: str, *, is_cut_short: bool) -> None:
    """Record whether the last watch of a version ended without a verdict. Idempotent."""

    def change(known: Any) -> list[str] | None:
        others = [each for each in _versions(known) if each != version]
        return [*others, *([version] if is_cut_short else [])][-MOST_VERSIONS:] or None

    facts.change(journal, BAKE_CUT_SHORT, change)


def _versions(known: Any) -> list[str]:
    """Return the versions in the fact, which was a single one at first."""
    return [known] if isinstance(known, str) else list(known or [])
