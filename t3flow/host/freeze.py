"""Freeze: one file holds everything, however it was made; the journal notes who asked and why."""

import getpass
import time
from contextlib import suppress
from typing import TypedDict

from t3flow.engine.files import write_atomically
from t3flow.engine.journal import Journal
from t3flow.host.records import facts
from t3flow.settings.load import Settings


class Frozen(TypedDict):
    """Why tracking is frozen, since when (epoch seconds), and by whom."""

    reason: str
    since: float
    by: str


def is_frozen(settings: Settings) -> bool:
    """Whether the freeze file is there, in whatever form. If that cannot be told, it is."""
    try:
        settings.paths.freeze_file.lstat()
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return True


def frozen(settings: Settings, journal: Journal | None) -> Frozen | None:
    """What holds tracking, or None. A file made by plain `touch` has its text as the reason and its time as since."""
    if not is_frozen(settings):
        return None
    noted: Frozen | None = facts.read(journal, "freeze") if journal is not None else None
    if noted is not None:
        return noted
    path = settings.paths.freeze_file
    text, since = "", time.time()
    with suppress(OSError):
        since = path.lstat().st_mtime
        with path.open(errors="replace") as file:
            text = file.read(500).strip()
    return {"reason": text or f"{path} exists", "since": since, "by": "file"}


def freeze(settings: Settings, journal: Journal | None, reason: str, by: str | None = None) -> None:
    """Writes the file first, then the note: killed in between it is frozen all the same. Repeating it keeps the first reason."""
    reason = " ".join(reason.split()) or "no reason given"
    if not is_frozen(settings):
        write_atomically(settings.paths.freeze_file, reason + "\n")
        if journal is not None:
            facts.write(journal, "freeze", {"reason": reason, "since": time.time(), "by": by or _caller()})


def unfreeze(settings: Settings, journal: Journal) -> None:
    """Removes the note, then the file. Repeating it is harmless."""
    facts.write(journal, "freeze", None)
    with suppress(FileNotFoundError):
        settings.paths.freeze_file.unlink()


def _caller() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
