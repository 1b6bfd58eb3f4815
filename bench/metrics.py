"""Cost of metrics with 100 users: a scrape beside prometheus_client alone, and the consumer with metrics beside the same consumer without them.

Exits with an error if a scrape of 100 users takes 20 ms of a core or more, or the consumer 1 % of a core or 15 MB more.
"""

import os
import sys
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from common import median_seconds, show, sized
from prometheus_client.exposition import generate_latest
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.sandbox.host import Sandbox, free_port
from t3flow.service.metrics.collector import HostCollector, Metrics

USERS, SCRAPES, SECONDS, EVERY_SECONDS = sized((100, 30, 120, 15), (3, 3, 2, 1))
SETTLE_SECONDS = sized(10, 1)
TICKS = os.sysconf("SC_CLK_TCK")


class Usage:
    """What a process has used: seconds of a core, and megabytes of memory now."""

    def __init__(self, pid: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.seconds = (int(fields[11]) + int(fields[12])) / TICKS
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
        self.megabytes = int(rollup[rollup.index("Rss:") + 1]) / 1000


def consume(box: Sandbox, scrape: str) -> tuple[float, float]:
    """Run the consumer for SECONDS; return the share of a core (percent) and the memory (MB)."""
    pid = box.start_consumer().pid
    time.sleep(SETTLE_SECONDS)  # what it does once, at its start
    before = Usage(pid)
    for _ in range(SECONDS // EVERY_SECONDS):
        if scrape:
            fetch(scrape)
        time.sleep(EVERY_SECONDS)
    after = Usage(pid)
    box.kill("consumer")
    return 100 * (after.seconds - before.seconds) / SECONDS, after.megabytes


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def main() -> None:
    """Measure with real servers and a real consumer."""
    users = [f"user{number:03}" for number in range(USERS)]
    failures = []
    with sandbox(users, quiet_seconds=0) as box:
        box.start("0.0.24", dict.fromkeys(users, LEVEL30), {"schema_level": 30})
        plain = box.config.read_text().replace("[gate]", "[gate]\nseeds = 'largest'", 1)
        box.config.write_text(plain)
        box.start_consumer()
        box.publish("0.0.25-nightly.20260609.1", {"schema_level": 30})
        for user in users[::4]:
            box.control(user, "turn/start", agent="claude")
        done = box.document("enqueue", "bump", "--wait")
        assert done["outcome"] == "updated", done
        box.kill("consumer")
        closed = time.strftime(
            "%H:00-%H:01", time.localtime(time.time() + 12 * 3600)
        )  # deferred users sleep: their checks cost more
        plain = plain.replace('window = ""', f'window = "{closed}"')
        box.config.write_text(plain)

        without = consume(box, "")
        port, textfile = free_port(), box.top / "t3flow.prom"
        box.config.write_text(f'{plain}\n[metrics]\nlisten = "127.0.0.1:{port}"\ntextfile = "{textfile}"\n')
        beside = consume(box, url := f"http://127.0.0.1:{port}/metrics")
        share, memory = beside[0] - without[0], beside[1] - without[1]
        print(f"consumer without metrics  {without[0]:5.2f} % of a core   {without[1]:6.1f} MB")
        print(
            f"consumer with metrics     {beside[0]:5.2f} % of a core   {beside[1]:6.1f} MB   {share:+5.2f} %  {memory:+5.1f} MB"
        )
        failures += ["the consumer uses 1 % of a core more"] * (share >= 1) + ["the consumer takes 15 MB more"] * (
            memory >= 15
        )

        box.start_consumer()
        metrics = Metrics(box.settings, box.journal)
        text = metrics.text()
        families = list(HostCollector(box.settings, box.journal).collect())
        kept: Iterable[object] = SimpleNamespace(collect=lambda: families)  # type: ignore[assignment]
        print(
            f"{text.count(b'user0')} samples with users, {text.count(chr(10).encode())} lines, {len(text) / 1000:.0f} KB"
        )
        alone = median_seconds(lambda: generate_latest(kept), SCRAPES)  # type: ignore[arg-type]
        show("prometheus_client alone, from memory", alone)
        began, used = time.thread_time(), []
        made = median_seconds(lambda: (metrics.text(), used.append(time.thread_time() - began)), SCRAPES)
        show("a scrape, made", made, "prometheus_client alone", alone)
        core = used[-1] / SCRAPES
        print(f"a scrape, made: {core * 1000:.1f} ms of a core")
        served = []
        for _ in range(SCRAPES):
            time.sleep(1.1)  # so that no answer is one that was made before
            served += median_seconds(lambda: fetch(url), 1)
        show("a scrape, served by the consumer", served, "prometheus_client alone", alone)
        failures += ["a scrape takes 20 ms of a core"] * (core >= 0.02)
    if failures and sized(True, False):
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    go_inside()
    main()
