"""How long a user cannot pair: a safe restart beside a bare one of the same server, with the same probe every 50 ms.

With --real: how long a server does not answer during bumps to and from the real t3, beside the same moves by hand.
"""

import itertools
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from common import show, sized, wait_until
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.host.host import open_host
from t3flow.host.pairing import probe as pairing_probe
from t3flow.host.pairing import verification
from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox

TIMES, REAL_TIMES = sized((8, 3), (1, 1))
BEFORE, LEVEL32 = "0.0.33", LEVEL30.with_name("state-level32.sqlite")
MOST_SECONDS_MORE = 0.3
PROBE_SECONDS = 0.05
IN_FLIGHT = 2 * (os.cpu_count() or 1)
"""More pairings at a time would load the machine and lock the database so that what is measured fails."""


class Probe:
    """Start a pairing through the dispatch every 50 ms, a few at a time, and record the end of those that succeed."""

    def __init__(self, box: Sandbox) -> None:
        self.host = open_host(box.settings, box.journal)
        self.good: list[float] = []
        self.stop = threading.Event()

    def once(self) -> None:
        """Try once."""
        try:
            pairing_probe.pair_once(self.host, "ada")
            self.good.append(time.monotonic())
        except pairing_probe.NotPaired:
            pass

    def longest_gap(self, restart: Callable[[], object]) -> float:
        """Return the longest time without a successful pairing around a restart."""
        self.good.clear()
        self.stop.clear()
        threads = []

        def fire() -> None:
            while not self.stop.wait(PROBE_SECONDS):
                if sum(thread.is_alive() for thread in threads) < IN_FLIGHT:
                    threads.append(threading.Thread(target=self.once))
                    threads[-1].start()

        firing = threading.Thread(target=fire)
        firing.start()
        try:
            time.sleep(1)
            restart()
            ended = time.monotonic()
            wait_until(lambda: self.good and self.good[-1] > ended + 0.5, "a pairing after the restart", 0.01)
        finally:
            self.stop.set()
        for thread in [firing, *threads]:
            thread.join()
        moments = sorted(self.good)
        return max(after - before for before, after in itertools.pairwise(moments))


class Answers(Probe):
    """Ask the server for its version, because minting with the real t3 takes over a second of CPU."""

    def once(self) -> None:
        """Try once."""
        try:
            pairing_probe.serving_version(self.host, "ada", 1.0)
            self.good.append(time.monotonic())
        except pairing_probe.NotPaired:
            pass


def with_real() -> None:
    """Alternate between moves by hand and by a bump, to and from the real t3."""
    tarball = real.cached()
    if tarball is None:
        sys.exit("bench/restart.py --real: the real t3 is not there; fetch it: python -m t3flow.sandbox.real")
    with sandbox(["ada"], quiet_seconds=0) as box:
        box.environment |= {"T3CODE_TELEMETRY_ENABLED": "false"}
        box.start(BEFORE, {"ada": LEVEL32}, {"schema_level": 32})
        real.publish(box.top / "registry", tarball)
        box.install_slot(real.VERSION)
        box.start_consumer()
        probe = Answers(box)

        def by_hand(version: str) -> None:
            box.supervise("stop", "ada")
            box.supervise("reset-failed", "ada")
            box.assign("ada", version)
            box.supervise("start", "ada")
            box.until(lambda: answers(version), f"the server answers as {version}", 60)

        def answers(version: str) -> bool:
            with suppress(pairing_probe.NotPaired):
                pairing_probe.check_running(probe.host, "ada", version, 1.0)
                return True
            return False

        def by_bump(version: str) -> None:
            said = box.document("enqueue", "bump", "--target", version, "--wait")
            assert said["outcome"] == "updated", said

        def start_again() -> None:
            """Reset the user to the Node build and its database."""
            box.supervise("stop", "ada")
            box.supervise("reset-failed", "ada")
            for path in box.database("ada").parent.glob("state.sqlite*"):
                path.unlink()
            shutil.copyfile(LEVEL32, box.database("ada"))
            box.install(BEFORE)
            box.supervise("start", "ada")
            box.await_pairing("ada")

        found: dict[str, list[float]] = {name: [] for name in ("to by hand", "to", "away by hand", "away")}
        for number in range(REAL_TIMES):
            later = f"0.0.43-nightly.20260920.{number + 1}"
            box.publish(later, generation="C", tag=None)
            box.install_slot(later)
            for how, move in ((" by hand", by_hand), ("", by_bump)):
                start_again()
                for way, version in (("to", real.VERSION), ("away", later)):
                    found[f"{way}{how}"].append(probe.longest_gap(lambda move=move, version=version: move(version)))
        for way, name in (("to", "to the real t3"), ("away", "from the real t3 to the stand-in")):
            reference, safe = found[f"{way} by hand"], found[way]
            show(f"{name}, by hand: no answer for", reference)
            show(f"{name}, by a bump: no answer for", safe, "by hand", reference)
            more = statistics.median(safe) - statistics.median(reference)
            print(f"{name}: {more:+.2f} s (at most {MOST_SECONDS_MORE:+} s is wanted)", flush=True)


def main() -> None:
    """Alternate between a bare restart and a bump."""
    with sandbox(["ada"], quiet_seconds=0) as box:
        box.start("0.0.24", {"ada": LEVEL30}, {"schema_level": 30})
        box.start_consumer()
        probe = Probe(box)
        bare, safe, said = [], [], []

        def plain() -> None:
            box.supervise("stop", "ada")
            box.supervise("reset-failed", "ada")
            box.supervise("start", "ada")
            verification.verify(probe.host, "ada", None, box.patience_seconds)

        def bump(version: str) -> None:
            """Move the user, who is deferred for a moment if a pairing was under way."""
            said.append(box.document("enqueue", "bump", "--wait"))
            box.until(lambda: box.assigned("ada") == version and not box.document("deferrals"), f"ada runs {version}")

        for number in range(TIMES):
            bare.append(probe.longest_gap(plain))
            version = f"0.0.25-nightly.20260609.{number + 1}"
            box.publish(version, {"schema_level": 30})
            safe.append(probe.longest_gap(lambda version=version: bump(version)))
            assert said[-1]["outcome"] == "updated", said[-1]
        show("bare restart (stop, start): no pairing for", bare)
        show("safe restart (bump): no pairing for", safe, "bare restart", bare)
        reported = [entry["users"]["ada"]["downtime_s"] for entry in said]
        if at_once := [seconds for seconds in reported if seconds is not None]:
            show("downtime that the bump itself reports", at_once, "bare restart", bare)


if __name__ == "__main__":
    go_inside()
    with_real() if "--real" in sys.argv[1:] else main()
