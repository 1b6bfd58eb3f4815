"""What must not grow in a year: its values after each night, and a verdict."""

import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
from host_of_year import Year

Values = dict[str, float]
MANY = 24
"""From how many nights on growth is judged: fewer do not fill what is kept."""
COPIED_AT_ONCE = 200
TOLERANCE = 1.25
"""How much larger the last quarter may be than the second one, which is past the first fill of all retention."""
STATUS_TOLERANCE = 1.5
MAX_MEMORY_MB = 90.0
SLACK = {
    "consumer MB": 8,
    "consumer descriptors": 60,  # of connections to the journal, as many as threads at once; SQLite keeps and reuses them
    "consumer threads": 3,
    "journal KB": 600,
    "WAL KB": 4200,
    "queue.db KB": 4200,
    "backups KB": 6000,
    "table counters": 400,  # until each step has ended in each way
    "table events": 400,
}
"""Differences that are not growth, in the unit of the name."""
DEFAULT_SLACK = 12.0


def measure(year: Year) -> Values:
    """Return the value of each thing that is watched."""
    paths, top = year.settings.paths, year.box.top
    state = paths.state_dir
    users = max(1, len(year.box.users))
    consumer = psutil.Process(year.box.processes["consumer"].pid)
    values: Values = {
        "consumer MB": consumer.memory_info().rss / 1e6,
        "consumer descriptors": consumer.num_fds(),
        "consumer threads": consumer.num_threads(),
        "journal KB": size(state / "journal.db") / 1e3,
        "WAL KB": size(state / "journal.db-wal") / 1e3,
        "queue.db KB": sum(size(path) for path in state.glob("queue.db*")) / 1e3,
        "files of state": count(state),
        "folders of users": len(list((state / "users").iterdir())) - users,
        "links": len(list((paths.versions_dir / "users").iterdir())) - users,
        "slots": len(list((paths.versions_dir / "versions").iterdir())),
        "files of opt": count(top / "opt") - count(paths.versions_dir / "versions"),
        "backups per user": sum(1 for _ in paths.backup_dir.glob("*/*")) / users,
        "backups KB": disk_bytes(paths.backup_dir) / 1e3,
        "folders of backups": len(list(paths.backup_dir.iterdir())) - users,
        "scratch": count(paths.scratch_dir),
        "files of etc and bin": count(top / "bin") + count(top / "etc") - 2 * users,
        "replaced sets": sum(1 for _ in (top / "home").glob("*/.t3/userdata/replaced-*")),
        "files in homes": sum(1 for _ in (top / "home").glob("*/.t3/**/*") if "replaced-" not in str(_)) / users,
        "files beside homes": sum(1 for path in (top / "home").iterdir() if path.name not in year.box.users),
    }
    for (table,) in year.journal.query("select name from sqlite_master where type = 'table' order by name"):
        if not str(table).startswith("sqlite_"):
            [(rows,)] = year.journal.query(f"select count(*) from {table}")
            values[f"table {table}"] = float(rows)
    [(text,)] = year.journal.query("select coalesce(sum(length(value)), 0) from facts")
    values["facts KB"] = float(text) / 1e3
    return values


def size(path: Path) -> int:
    """Return the size of a file, 0 without one."""
    return path.stat().st_size if path.exists() else 0


def count(folder: Path) -> int:
    """Return the number of files and folders below a folder."""
    return sum(len(names) + len(files) for _, names, files in os.walk(folder))


def disk_bytes(folder: Path) -> int:
    """Return the size of the files below a folder, each inode once."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[status.st_ino] = status.st_size
    return sum(found.values())


def status_ratio(year: Year, times: int = 7) -> float:
    """Return the median time of `status` as a multiple of a bare start of Python, measured alternately."""

    def seconds(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    bare = lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)  # noqa: E731
    pairs = [(seconds(lambda: year.box.t3flow("status")), seconds(bare)) for _ in range(times)]
    return statistics.median(pair[0] for pair in pairs) / statistics.median(pair[1] for pair in pairs)


def fill_runs(year: Year, wanted: int) -> int:
    """Copy ended runs with their events within the journal until it has so many, as on a host with more users, or little of the disk is free.

    Return how many there are.
    """
    with closing(sqlite3.connect(year.settings.paths.state_dir / "journal.db", timeout=60)) as journal:
        ended = [
            str(run) for (run,) in journal.execute("select id from runs where status != 'running' order by created")
        ]
        present = journal.execute("select count(*) from runs").fetchone()[0]
        columns = [str(row[1]) for row in journal.execute("pragma table_info(runs)")]
        rest = ", ".join(column for column in columns if column != "id")
        for number in range(max(0, wanted - present)) if ended else ():
            if number % COPIED_AT_ONCE == 0:
                journal.commit()
                journal.execute("pragma wal_checkpoint(truncate)").fetchall()
                disk = os.statvfs(year.settings.paths.state_dir)
                if disk.f_bavail < disk.f_blocks / 4:
                    break
            source, copy = ended[number % len(ended)], f"{ended[number % len(ended)]}-{number}"
            journal.execute(f"insert into runs select ?, {rest} from runs where id = ?", (copy, source))
            journal.execute(
                "insert into events select ?, seq, at, kind, step, attempt, data from events where run = ?",
                (copy, source),
            )
        journal.commit()
        return int(journal.execute("select count(*) from runs").fetchone()[0])


def growth(history: list[Values]) -> dict[str, str]:
    """Return each thing that grew, and how: the most of the last quarter against the most of the second quarter."""
    nights = len(history)
    if nights < MANY:
        return {}
    found = {}
    early, late = history[nights // 4 : nights // 2], history[3 * nights // 4 :]
    for name in sorted({name for values in history for name in values}):
        before, after = (max(values.get(name, 0.0) for values in part) for part in (early, late))
        if after > before * TOLERANCE + SLACK.get(name, DEFAULT_SLACK):
            found[name] = f"grew from {before:.0f} to {after:.0f}"
    if (most := history[-1]["consumer MB"]) > MAX_MEMORY_MB:
        found["consumer MB"] = f"is {most:.0f}, over {MAX_MEMORY_MB:.0f}"
    return found


def table(history: list[Values], grown: dict[str, str]) -> str:
    """Return the table at the end: each thing at night 1, 10 %, 50 %, and 100 %."""
    if not history:
        return "no night was played"
    marks = [0, len(history) // 10, len(history) // 2, len(history) - 1]
    lines = [f"{'':26}{'night 1':>10}{'10 %':>10}{'50 %':>10}{'100 %':>10}  verdict"]
    for name in history[-1]:
        cells = "".join(f"{history[mark].get(name, 0.0):10.1f}" for mark in marks)
        lines.append(f"{name:26}{cells}  {grown.get(name, 'bounded' if len(history) >= MANY else 'too few nights')}")
    return "\n".join(lines)
