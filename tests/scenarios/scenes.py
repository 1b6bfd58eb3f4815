"""Pieces that the scenarios are made of."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from t3flow.sandbox.host import Sandbox

FIRST = "0.0.24"
NEXT = "0.0.25-nightly.20260609.501"
LATER = "0.0.25-nightly.20260610.502"
ALL = ["ada", "grace", "linus"]


def bump(box: Sandbox, *arguments: str, timeout_seconds: float = 120) -> dict[str, Any]:
    """`t3flow enqueue bump --wait --json`, to its end."""
    document: dict[str, Any] = box.document("enqueue", "bump", "--wait", *arguments, timeout_seconds=timeout_seconds)
    return document


def results(document: dict[str, Any]) -> dict[str, str]:
    """Return what became of each user."""
    return {user: entry["result"] for user, entry in document["users"].items()}


def write(database: Path, sql: str, *parameters: Any) -> None:
    """Write to a database as another program would."""
    with closing(sqlite3.connect(database, timeout=5)) as connection, connection:
        connection.execute(sql, parameters)


def content(database: Path) -> list[str]:
    """Everything that a database says, read without disturbing it."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def tree(top: Path, *leave: str) -> dict[str, tuple[Any, ...]]:
    """Return what lies below a folder: name → (kind, time of change, target of a link)."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(folder) / name
            relative = str(path.relative_to(top))
            if relative.split("/")[0] in leave:
                continue
            status = path.lstat()
            found[relative] = (
                status.st_mode,
                status.st_size if path.is_file() else 0,
                os.readlink(path) if path.is_symlink() else "",
            )
    return found


def is_busy(box: Sandbox, user: str) -> str:
    """Start a turn of the user's agent; returns its name."""
    turn: str = box.control(user, "turn/start", agent="claude")["turn"]
    return turn


def deferrals(box: Sandbox) -> dict[str, dict[str, Any]]:
    """Return the pending deferrals by user."""
    return {entry["user"]: entry for entry in box.document("deferrals")}


def drained(box: Sandbox, user: str, version: str, timeout_seconds: float = 30) -> None:
    """Wait until a deferred user was moved."""
    box.until(
        lambda: box.assigned(user) == version and user not in deferrals(box), f"{user} is on {version}", timeout_seconds
    )


@contextmanager
def pairing_all_the_time(box: Sandbox, user: str) -> Iterator[list[str]]:
    """Pairs again and again meanwhile; gives the failures."""
    import threading

    failures: list[str] = []
    stop = threading.Event()

    def pair() -> None:
        while not stop.wait(0.05):
            if not box.pairs(user, tries=1):
                failures.append(f"{time.time():.2f}")

    thread = threading.Thread(target=pair)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(30)


def everybody_is_well(box: Sandbox, versions: dict[str, str]) -> None:
    """Each user has this version, their server runs it, and they can pair."""
    for user, version in versions.items():
        assert box.assigned(user) == version
        shown = box.document("status")["users"][user]
        assert (shown["running_version"], shown["active"]) == (version, True), shown
    verified = box.t3flow("verify", *versions)
    assert verified.returncode == 0, verified
