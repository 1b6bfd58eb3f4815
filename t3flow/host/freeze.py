"""Freeze and unfreeze: the freeze file decides, and the journal records who froze tracking and why."""

import time
from contextlib import suppress
from typing import TypedDict

from t3flow.engine.files import write_atomically
from t3flow.engine.journal import Journal
from t3flow.host.caller import calling_account
from t3flow.host.records import facts
from t3flow.settings.load import Settings


class Frozen(TypedDict):
    """Why tracking is frozen, since when (epoch seconds), and by whom."""

    reason: str
    since: float
    by: str


def is_frozen(settings: Settings) -> bool:
    """Return whether the freeze file exists in any form. Fails closed: frozen if that cannot be told."""
    try:
        settings.paths.freeze_file.lstat()
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return True


def frozen(settings: Settings, journal: Journal | None) -> Frozen | None:
    """Return why tracking is frozen, or None. For a file made by hand, the reason is its text and the time its modification time."""
    if not is_frozen(settings):
        return None
    recorded: Frozen | None = facts.read(journal, "freeze") if journal is not None else None
    if recorded is not None:
        return recorded
    path = settings.paths.freeze_file
    text, since = "", time.time()
    with suppress(OSError):
        since = path.lstat().st_mtime
        with path.open(errors="replace") as file:
            text = " ".join(file.read(500).split())
    return {"reason": text or f"{path} exists", "since": since, "by": "file"}


def freeze(settings: Settings, journal: Journal | None, reason: str, by: str | None = None) -> None:
    """Write the freeze file, then the record: a kill in between leaves tracking frozen. Idempotent: the first reason stays.

    A reason may have bytes that are no text, as from a terminal in another encoding: that must not prevent a freeze.
    """
    reason = " ".join(reason.encode(errors="replace").decode().split()) or "no reason given"
    if not is_frozen(settings):
        write_atomically(settings.paths.freeze_file, reason + "\n")
        if journal is not None:
            facts.write(journal, "freeze", {"reason": reason, "since": time.time(), "by": by or calling_account()})


def unfreeze(settings: Settings, journal: Journal | None) -> None:
    """Remove the record, then the freeze file. Idempotent."""
    if journal is not None:
        facts.write(journal, "freeze", None)
    with suppress(FileNotFoundError):
        settings.paths.freeze_file.unlink()
