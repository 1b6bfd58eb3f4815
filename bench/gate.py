"""How long the gate takes for 10 and for 100 users of 5 MB, and for one of 2 GB.

The reference: a plain cp of the same bytes, and a start of the server on each copy.
"""

import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.sandbox.host import Sandbox, free_port

FIRST, NEXT = "0.0.24", "0.0.25-nightly.20260609.501"
MEGABYTE = 1024 * 1024
CASES = ((10, 5 * MEGABYTE), (100, 5 * MEGABYTE), (1, 2048 * MEGABYTE))


def grow(path: Path, size: int) -> None:
    """Fills a database up to a size, with what no snapshot shows: as in a real one, whose events take the most."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma synchronous = off")
        connection.execute("create table bench_filling (id integer primary key, payload text)")
        connection.execute("begin")
        while (missing := size - 4096 * connection.execute("pragma page_count").fetchone()[0]) > 0:
            connection.execute(
                "insert into bench_filling (payload) values (hex(randomblob(?)))", (min(missing // 2 + 1, MEGABYTE),)
            )
        connection.execute("commit")
        connection.execute("pragma journal_mode = wal")


def reference(box: Sandbox, source: Path) -> tuple[float, float]:
    """Seconds of a cp of the database, and of a start of the server on the copy until it answers."""
    base_dir = box.top / "scratch" / "reference"
    (base_dir / "userdata").mkdir(parents=True)
    target = base_dir / "userdata" / "state.sqlite"
    began = time.monotonic()
    subprocess.run(["cp", "--reflink=auto", str(source), str(target)], check=True)
    copied = time.monotonic() - began
    slot = box.settings.paths.versions_dir / "versions" / FIRST
    port = free_port()
    words = [
        slot / ".node",
        slot / "node_modules/.bin/t3",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--base-dir",
        base_dir,
    ]
    began = time.monotonic()
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=0.2) as answer:
                if answer.status == 200:
                    break
            time.sleep(0.02)
        started = time.monotonic() - began
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(base_dir)
    return copied, started


def measure(count: int, size: int) -> None:
    """A dry run of a bump; its gate alone, as the journal has its steps."""
    users = [f"user{number:03}" for number in range(count)]
    with sandbox(users) as box:
        seed = box.top / "seed.sqlite"
        shutil.copyfile(LEVEL30, seed)
        grow(seed, size)
        for user in users:
            box.database(user).parent.mkdir(parents=True)
            subprocess.run(["cp", "--reflink=auto", str(seed), str(box.database(user))], check=True)
        box.start_registry()
        box.publish(FIRST, {"schema_level": 30})
        box.install(FIRST)
        box.start_supervisor()
        box.start_dispatch()
        box.start_consumer()
        box.publish(NEXT, {"schema_level": 32})
        said = box.document("enqueue", "bump", "--dry-run", "--wait", timeout_seconds=3600)
        assert said["outcome"] == "dry_run_passed", said
        events = box.document("show", said["run"])["events"]
        gate = [event for event in events if event["step"] in ("choose_seeds", "try_on")]
        seconds = (_at(gate[-1]) - _at(gate[0])).total_seconds()
        takes = next(event["data"]["result"]["takes"] for event in gate if event["kind"] == "completed")
        copied, started = min(reference(box, seed) for _ in range(3))
        plain = count * (copied + started)
        print(
            f"{count:>3} × {size / MEGABYTE:.0f} MB: gate {seconds:6.1f} s ({seconds / count:.2f} s each; {takes})\n"
            f"    cp and start of each, one after the other {plain:6.1f} s ({copied:.3f} + {started:.2f} s each): gate = {seconds / plain:.2f} ×",
            flush=True,
        )


def _at(event: dict[str, str]) -> datetime:
    return datetime.fromisoformat(event["at"])


def main() -> None:
    """All cases, or those whose number is given."""
    chosen = [CASES[int(word)] for word in sys.argv[1:]] or CASES
    for count, size in chosen:
        measure(count, size)


if __name__ == "__main__":
    go_inside()
    main()
