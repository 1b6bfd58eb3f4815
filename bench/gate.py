"""Duration of the gate for 10 and 100 users of 5 MB, for one of 2 GB, and for 10 on the real t3 if it is available; t3flow's own share of a trial.

The reference is the server's own work in a trial, with as many in parallel and the same priority: on a copy of the same bytes, two starts until it
answers, two commands that create a pairing credential, and two stops.
"""

import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from common import arguments, sized, waiting
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.host.cells.processes import LOW_PRIORITY
from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox, free_port
from t3flow.t3.commands import MINT

FIRST, NEXT = "0.0.24", "0.0.25-nightly.20260609.501"
MEGABYTE = 1024 * 1024
REAL_USERS, BOUND, OWN_BOUND_SECONDS = 10, 1.5, 0.5
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


def measure(count: int, size: int) -> None:
    """Measure the gate for users of the stand-in with databases of this size."""
    users = [f"user{number:03}" for number in range(count)]
    with sandbox(users) as box:
        seed = box.top / "seed.sqlite"
        shutil.copyfile(LEVEL30, seed)
        grow(seed, size)
        start(box, seed)
        box.publish(NEXT, {"schema_level": 32})
        report(
            box,
            f"{count:>3} × {size / MEGABYTE:.0f} MB",
            FIRST,
            seed,
            box.document("enqueue", "bump", "--dry-run", "--wait"),
        )


def measure_real() -> None:
    """Measure the gate for users who are to move to the real t3."""
    tarball = real.cached()
    if tarball is None:
        print(f"{real.PACKAGE}@{real.VERSION}: not here (python -m t3flow.sandbox.real)", flush=True)
        return
    with sandbox([f"user{number:03}" for number in range(REAL_USERS)]) as box:
        start(box, LEVEL30)
        real.publish(box.top / "registry", tarball)
        box.install_slot(real.VERSION)
        said = box.document("enqueue", "bump", "--target", real.VERSION, "--dry-run", "--wait")
        report(box, f"{REAL_USERS:>3} on the real {real.VERSION}", real.VERSION, LEVEL30, said)


def start(box: Sandbox, seed: Path) -> None:
    """Give every user a copy of the seed, and start all but the users' servers."""
    for user in box.users:
        box.database(user).parent.mkdir(parents=True)
        subprocess.run(["cp", "--reflink=auto", str(seed), str(box.database(user))], check=True)
    box.start_registry()
    box.publish(FIRST, {"schema_level": 30})
    box.install(FIRST)
    box.start_supervisor()
    box.start_dispatch()
    box.start_consumer()


def report(box: Sandbox, name: str, version: str, seed: Path, said: dict[str, Any]) -> None:
    """Print the duration of the gate in a run beside that of the server's own work, and t3flow's own share of each trial."""
    assert said["outcome"] == "dry_run_passed", said
    events = box.document("show", said["run"])["events"]
    gate = [event for event in events if event["step"] in ("choose_seeds", "run_trials")]
    seconds = (_at(gate[-1]) - _at(gate[0])).total_seconds()
    chosen, *batches = [event["data"]["result"] for event in gate if event["kind"] == "completed"]
    verdicts = [verdict for batch in batches for verdict in batch]
    count, width = len(verdicts), int(chosen["width"])
    copies = min(count, 2 * width)
    with waiting("the server's own work"), ThreadPoolExecutor(width) as pool:
        began = time.monotonic()
        found = list(pool.map(lambda number: server_alone(box, version, seed, number), range(copies)))
        alone = (time.monotonic() - began) * count / copies
    starts, stops, commands = (statistics.median(each[index] for each in found) for index in range(3))
    own = (seconds - alone) / count
    took, waited, cpu = (statistics.median(each[key] for each in verdicts) for key in ("took_s", "server_s", "cpu_s"))
    print(
        f"{name}: gate {seconds:.1f} s, {seconds / count:.2f} s per trial ({chosen['takes']})\n"
        f"    the server's own, with as many in parallel: {alone:.1f} s, {alone / count:.2f} s per trial; "
        f"gate = {seconds / alone:.2f} × (bound {BOUND})\n"
        f"    t3flow's own share: {own:.2f} s per trial (bound {OWN_BOUND_SECONDS}); "
        f"one trial takes {took:.2f} s, of which it waits {waited:.2f} s for t3, and {cpu:.2f} s of a processor\n"
        f"    the server's own on one copy: two starts {starts:.2f} s, two stops {stops:.2f} s, two pairing commands {commands:.2f} s",
        flush=True,
    )


def server_alone(box: Sandbox, version: str, seed: Path, number: int) -> tuple[float, float, float]:
    """Copy a database, and start the server on it, create a credential and stop the server, twice: what a trial cannot do without.

    Return the seconds of the starts until an answer, of the stops, and of the commands. The priority is that of a trial.
    """
    base_dir = box.top / "scratch" / f"reference-{number}"
    (base_dir / "userdata").mkdir(parents=True)
    subprocess.run(["cp", "--reflink=auto", str(seed), str(base_dir / "userdata" / "state.sqlite")], check=True)
    slot = box.settings.paths.versions_dir / "versions" / version
    port = free_port()
    program = [*LOW_PRIORITY, str(slot / ".node"), str(slot / "node_modules/.bin/t3")]
    environment = {**os.environ, "HOME": str(base_dir)}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    starts = stops = commands = 0.0
    for _ in range(2):
        began = time.monotonic()
        serve = [*program, "serve", "--host", "127.0.0.1", "--port", str(port), "--base-dir", str(base_dir)]
        server = subprocess.Popen(serve, start_new_session=True, **quiet)
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=0.5) as answer:
                if answer.status == 200:
                    break
            time.sleep(0.02)
        starts += time.monotonic() - began
        began = time.monotonic()
        subprocess.run([*program, *MINT, "--base-dir", str(base_dir), "--json"], check=True, **quiet)
        commands += time.monotonic() - began
        began = time.monotonic()
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        with suppress(ProcessLookupError):
            while True:
                os.killpg(server.pid, 0)
                time.sleep(0.02)
        stops += time.monotonic() - began
    shutil.rmtree(base_dir)
    return starts, stops, commands


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
