"""usage: users.py [--short] [USERS...]: what a bump, status, doctor, and verify cost for each user, on a host with 3, 10, 30, 100, and 300 users.

The time of a bump is split into the install and the gate, the server's own time, and t3flow's. The references are measured in the same run, without
t3flow: a plain restart of some of the same servers until they answer, a pairing through the same dispatch, and all pairings in parallel. The servers
are a cheap stand-in (`_cheap_server.py`); registry, npm, dispatch, minting, databases, processes, and the gate's one trial are those of the sandbox.
Between two sizes, the processor time of t3flow and of its children for each further user is told, which a loaded machine does not change much: the
benchmark exits with an error if that grows with the number of users.
"""

import http.client
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from common import arguments, median_seconds, sized, waiting
from sandboxed import LEVEL30, go_inside, sandbox

import t3flow.workflows  # noqa: F401 - registers the steps
from t3flow.engine.step import STEPS, present_name
from t3flow.sandbox.host import Sandbox
from t3flow.t3.processes import PROGRAM

ALL, SHORT = (3, 10, 30, 100, 300), (3, 10)
SAMPLE, PARALLEL = 10, 8
BEFORE, AFTER = "0.0.24", "0.0.25-nightly.20260609.1"
INSTALL = ("resolve", "guard", "open_scratch", "stage", "clean_scratch")
MOST_GROWTH = 1.5
"""How many times more a user may cost on the largest host than on the smallest."""
SLACK_SECONDS = 0.1
CHEAP = Path(__file__).with_name("_cheap_server.py")
NIGHT_SECONDS = 1800.0


def start(box: Sandbox) -> None:
    """Start everything but the consumer, with cheap servers."""
    box.copy_databases(dict.fromkeys(box.users, LEVEL30))
    box.start_registry()
    box.publish(BEFORE, {"schema_level": 30})
    box.install(BEFORE)
    links = box.settings.paths.versions_dir / "users"
    script = (
        f'exec "$0" -I -S "$1" "$(readlink -f {links}/$USER)/{PROGRAM}" serve --host "$2" --port "$3" --base-dir "$4"'
    )
    words = ["/bin/sh", "-c", script, sys.executable, str(CHEAP), "{host}", "{port}", "{base_dir}"]
    for user in box.users:
        (box.top / "etc/t3-serve" / f"{user}.unit.json").write_text(json.dumps({"exec_start": words}))
    box.start_supervisor()
    box.start_dispatch()
    for user in box.users:
        box.supervise("start", user)
    for user in box.users:
        await_answer(box, user)
    text = box.config.read_text()
    box.config.write_text(text.replace("[gate]", "[gate]\nseeds = 'largest'", 1))
    box.start_consumer()


def await_answer(box: Sandbox, user: str) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", box.ports[user], timeout=5)
            connection.request("GET", "/.well-known/t3/environment")
            if connection.getresponse().status == 200:
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"the server of {user} does not answer")
        time.sleep(0.005)


def pair(box: Sandbox, user: str) -> None:
    """Pair through the dispatch."""
    connection = http.client.HTTPConnection("127.0.0.1", box.dispatch_port, timeout=60)
    connection.request("GET", "/", headers={"X-authentik-username": f"{user}@example.test"})
    if (status := connection.getresponse().status) != 302:
        raise SystemExit(f"the dispatch answers {status} for {user}")


def plain_restart(box: Sandbox, user: str) -> None:
    """Restart a server without t3flow."""
    for verb in ("stop", "reset-failed", "start"):
        box.supervise(verb, user)
    await_answer(box, user)


def step_seconds(box: Sandbox, run: str) -> dict[str, float]:
    """Return step → seconds from its start to its end, by the journal."""
    found: dict[str, float] = {}
    began = 0.0
    for kind, step, at in box.journal.query("select kind, step, at from events where run = ? order by seq", run):
        if kind == "started":
            began = at
        elif kind == "completed":
            found[step] = found.get(step, 0.0) + at - began
    return found


def processor_seconds(box: Sandbox) -> float:
    """Return the processor time of the consumer and of its children that have ended."""
    spent = psutil.Process(box.processes["consumer"].pid).cpu_times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def is_gate(step: str) -> bool:
    """Return whether a step belongs to the gate."""
    return STEPS[present_name(step)].function.__module__.startswith("t3flow.gate")


def seconds(box: Sandbox, *words: str) -> float:
    """Return how long a command takes; the least of three, except for those that pair users."""
    took = []
    for _ in range(3 if words == ("status",) else 1):
        began = time.perf_counter()
        finished = box.t3flow(*words, timeout_seconds=300)
        took.append(time.perf_counter() - began)
        if finished.returncode != 0:
            raise SystemExit(f"t3flow {' '.join(words)}: {finished.stdout}{finished.stderr}")
    return min(took)


class Cost(NamedTuple):
    """What t3flow spent on a bump: its share of the time for each user, and all of its processor time with install and gate, in seconds."""

    users: int
    share: float
    spent: float


def measure(count: int) -> Cost:
    """Print what a host with that many users costs."""
    users = [f"user{number:03}" for number in range(count)]
    with sandbox(users, quiet_seconds=0) as box:
        with waiting(f"the servers of {count} users start"):
            start(box)
        sample = users[:: max(1, count // SAMPLE)][:SAMPLE]
        restart = [median_seconds(lambda user=user: plain_restart(box, user), 1)[0] for user in sample]
        alone = [median_seconds(lambda user=user: pair(box, user), 1)[0] for user in sample]
        began = time.perf_counter()
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda user: pair(box, user), users))
        together = time.perf_counter() - began
        box.publish(AFTER, {"schema_level": 30})
        spent, began = processor_seconds(box), time.perf_counter()
        with waiting(f"a bump moves {count} users"):
            said = box.document("enqueue", "bump", "--wait", timeout_seconds=NIGHT_SECONDS)
        bump, spent = time.perf_counter() - began, processor_seconds(box) - spent
        if said["outcome"] != "updated" or any(each["result"] != "restarted" for each in said["users"].values()):
            raise SystemExit(f"the bump of {count} users ended with {said['outcome']}: {said['reason']}")
        steps = step_seconds(box, said["run"])
        gate = sum(took for step, took in steps.items() if is_gate(step) or step in INSTALL)
        server = statistics.mean(restart) + statistics.mean(alone) + together / count
        share = (sum(steps.values()) - gate) / count - server
        down = statistics.median(each["downtime_s"] for each in said["users"].values())
        plain = statistics.median(restart) + statistics.median(alone)
        print(
            f"{count:>4} users  bump {bump:6.1f} s = install and gate {gate:5.1f} s + users × (server {server:5.3f} s + t3flow {share:5.3f} s)"
            f"   t3flow {share / server:4.2f} × the server's own restart and two pairings"
        )
        print(
            f"            downtime p50 {down:5.3f} s, {down - plain:+5.3f} s over a plain restart and pairing ({plain:5.3f} s)"
        )
        status, doctor, verify = (seconds(box, word) for word in ("status", "doctor", "verify"))
        bare = min(median_seconds(lambda: box.t3flow("--version"), 3))
        mint = statistics.mean(alone)
        print(
            f"            status {status:5.2f} s ({status / bare:4.1f} × t3flow --version)   doctor {doctor:5.2f} s"
            f"   verify {verify:5.2f} s (users × a pairing / {count * mint / verify:3.1f}; all at once, {PARALLEL} at a time: {together:5.2f} s)",
            flush=True,
        )
        top = sorted(
            ((took, step) for step, took in steps.items() if not is_gate(step) and step not in INSTALL), reverse=True
        )
        print(
            "            ms for each user: " + ", ".join(f"{step} {took / count * 1000:.0f}" for took, step in top[:8]),
            flush=True,
        )
        return Cost(count, share, spent)


def main() -> None:
    """Measure hosts of growing size."""
    counts = [int(word) for word in arguments()] or sized(ALL, SHORT)
    costs: list[Cost] = []
    slopes: list[float] = []
    for count in counts:
        costs.append(measure(count))
        if len(costs) > 1:
            former, last = costs[-2:]
            slopes.append((last.spent - former.spent) / (last.users - former.users))
            print(f"            processor time of t3flow for each further user {slopes[-1]:5.3f} s", flush=True)
    if slopes and slopes[-1] > slopes[0] * MOST_GROWTH + SLACK_SECONDS:
        raise SystemExit(
            f"t3flow's cost for each user grows with the users: {slopes[0]:.3f} s to {slopes[-1]:.3f} s of a core"
        )


if __name__ == "__main__":
    go_inside()
    main()
