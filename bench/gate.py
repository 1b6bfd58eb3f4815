"""Duration of the gate for 10 and 100 users of 5 MB, for one of 2 GB, and for 10 on the real t3 if it is available.

The reference is a cp of the same bytes and a server start on each copy. For the real t3, it is the server's own two starts and stops on each copy,
with as many in parallel as the gate has trials.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from common import arguments, sized
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox, free_port

FIRST, NEXT = "0.0.24", "0.0.25-nightly.20260609.501"
MEGABYTE = 1024 * 1024
REAL_USERS, REAL_BOUND = 10, 1.5
CASES = sized(((10, 5 * MEGABYTE), (100, 5 * MEGABYTE), (1, 2048 * MEGABYTE)), ((2, MEGABYTE),))


def grow(path: Path, size: int) -> None:
    """Fill a database up to a size with events, which take most of the space in a real one."""
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
    """Return the seconds of a cp of the database, and of a server start on the copy until it answers."""
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
    """Return the seconds of the gate in a dry run of a bump, from the journal."""
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
        said = box.document("enqueue", "bump", "--dry-run", "--wait")
        assert said["outcome"] == "dry_run_passed", said
        events = box.document("show", said["run"])["events"]
        gate = [event for event in events if event["step"] in ("choose_seeds", "run_trials")]
        seconds = (_at(gate[-1]) - _at(gate[0])).total_seconds()
        takes = next(event["data"]["result"]["takes"] for event in gate if event["kind"] == "completed")
        copied, started = min(reference(box, seed) for _ in range(3))
        plain = count * (copied + started)
        print(
            f"{count:>3} × {size / MEGABYTE:.0f} MB: gate {seconds:6.1f} s ({seconds / count:.2f} s each; {takes})\n"
            f"    cp and start of each, one after the other {plain:6.1f} s ({copied:.3f} + {started:.2f} s each): gate = {seconds / plain:.2f} ×",
            flush=True,
        )


def measure_real() -> None:
    """Measure the gate in a dry run of a bump to the real t3, beside the server's own two starts."""
    tarball = real.cached()
    if tarball is None:
        print(f"{real.PACKAGE}@{real.VERSION}: not here (python -m t3flow.sandbox.real)", flush=True)
        return
    users = [f"user{number:03}" for number in range(REAL_USERS)]
    with sandbox(users) as box:
        patient = box.config.read_text().replace("start_timeout_s = 15", "start_timeout_s = 60")  # the default
        box.config.write_text(patient)
        for user in users:
            box.database(user).parent.mkdir(parents=True)
            shutil.copyfile(LEVEL30, box.database(user))
        box.start_registry()
        box.publish(FIRST, {"schema_level": 30})
        box.install(FIRST)
        real.publish(box.top / "registry", tarball)
        box.install_slot(real.VERSION)
        box.start_supervisor()
        box.start_dispatch()
        box.start_consumer()
        said = box.document("enqueue", "bump", "--target", real.VERSION, "--dry-run", "--wait")
        assert said["outcome"] == "dry_run_passed", said
        events = box.document("show", said["run"])["events"]
        gate = [event for event in events if event["step"] in ("choose_seeds", "run_trials")]
        seconds = (_at(gate[-1]) - _at(gate[0])).total_seconds()
        chosen = next(event["data"]["result"] for event in gate if event["kind"] == "completed")
        width = int(chosen["width"])
        with ThreadPoolExecutor(width) as pool:
            found = list(pool.map(lambda number: two_starts(box, number), range(width)))
        starts, whole = (sum(each[index] for each in found) / width for index in (0, 1))
        rounds = REAL_USERS / width
        print(
            f"{REAL_USERS:>3} on the real {real.VERSION}: gate {seconds:6.1f} s ({chosen['takes']})\n"
            f"    users / parallel × the server's two starts and stops ({whole:.1f} s): {rounds * whole:.1f} s, gate = "
            f"{seconds / (rounds * whole):.2f} × (bound {REAL_BOUND})\n"
            f"    users / parallel × the two starts alone ({starts:.1f} s): gate = {seconds / (rounds * starts):.2f} ×",
            flush=True,
        )


def two_starts(box: Sandbox, number: int) -> tuple[float, float]:
    """Return the seconds of two starts of the real server until it answers, and the same with their stops."""
    base_dir = box.top / "scratch" / f"reference-{number}"
    (base_dir / "userdata").mkdir(parents=True)
    shutil.copyfile(LEVEL30, base_dir / "userdata" / "state.sqlite")
    slot = box.settings.paths.versions_dir / "versions" / real.VERSION
    port = free_port()
    words = [slot / ".node", slot / "node_modules/.bin/t3", "serve", "--host", "127.0.0.1", "--port", str(port)]
    starts = whole = 0.0
    for _ in range(2):
        began = time.monotonic()
        server = subprocess.Popen(
            [*words, "--base-dir", base_dir],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(base_dir)},
        )
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=0.5) as answer:
                if answer.status == 200:
                    break
            time.sleep(0.02)
        starts += time.monotonic() - began
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        with suppress(ProcessLookupError):
            while True:
                os.killpg(server.pid, 0)
                time.sleep(0.02)
        whole += time.monotonic() - began
    shutil.rmtree(base_dir)
    return starts, whole


def _at(event: dict[str, str]) -> datetime:
    return datetime.fromisoformat(event["at"])


def main() -> None:
    """Measure all cases, or those whose numbers are given; the number after the last is the real t3."""
    chosen = [int(word) for word in arguments()] or list(range(len(CASES) + sized(1, 0)))
    for number in chosen:
        if number < len(CASES):
            measure(*CASES[number])
        else:
            measure_real()


if __name__ == "__main__":
    go_inside()
    main()
