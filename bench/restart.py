"""How long a user cannot pair: a safe restart beside a bare one of the same server, by the same probe each 50 ms."""

import itertools
import threading
import time
from collections.abc import Callable

from common import show
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.host import pairing
from t3flow.host.host import open_host
from t3flow.sandbox.host import Sandbox

TIMES = 8
PROBE_SECONDS = 0.05


class Probe:
    """Pairs through the dispatch all the time, a new try each 50 ms whatever became of the last; notes when one that succeeded began and ended."""

    def __init__(self, box: Sandbox) -> None:
        self.host = open_host(box.settings, box.journal)
        self.good: list[float] = []
        self.stop = threading.Event()

    def once(self) -> None:
        """One try."""
        try:
            pairing.pair_once(self.host, "ada")
            self.good.append(time.monotonic())
        except pairing.NotPaired:
            pass

    def longest_gap(self, restart: Callable[[], object]) -> float:
        """The longest time without a successful pairing around a restart."""
        self.good.clear()
        self.stop.clear()
        threads = []

        def fire() -> None:
            while not self.stop.wait(PROBE_SECONDS):
                if sum(thread.is_alive() for thread in threads) < 60:
                    threads.append(threading.Thread(target=self.once))
                    threads[-1].start()

        firing = threading.Thread(target=fire)
        firing.start()
        time.sleep(1)
        restart()
        ended = time.monotonic()
        while not self.good or self.good[-1] < ended + 0.5:
            time.sleep(0.01)
        self.stop.set()
        for thread in [firing, *threads]:
            thread.join(30)
        moments = sorted(self.good)
        return max(after - before for before, after in itertools.pairwise(moments))


def main() -> None:
    """Takes turns: a bare restart, a bump."""
    with sandbox(["ada"], quiet_seconds=0) as box:
        box.start("0.0.24", {"ada": LEVEL30}, {"schema_level": 30})
        box.start_consumer()
        probe = Probe(box)
        bare, safe, said = [], [], []

        def plain() -> None:
            box.supervise("stop", "ada")
            box.supervise("reset-failed", "ada")
            box.supervise("start", "ada")
            pairing.verify(probe.host, "ada", None, 30)

        for number in range(TIMES):
            bare.append(probe.longest_gap(plain))
            box.publish(f"0.0.25-nightly.20260609.{number + 1}", {"schema_level": 30})
            safe.append(probe.longest_gap(lambda: said.append(box.document("enqueue", "bump", "--wait"))))
            assert said[-1]["outcome"] == "updated", said[-1]
        show("bare restart (stop, start): no pairing for", bare)
        show("safe restart (bump): no pairing for", safe, "bare restart", bare)
        show(
            "downtime that the bump itself reports",
            [entry["users"]["ada"]["downtime_s"] for entry in said],
            "bare restart",
            bare,
        )


if __name__ == "__main__":
    go_inside()
    main()
