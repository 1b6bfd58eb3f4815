"""How long a unit is held still for one read of its user's idleness, with 1, 10 and 50 processes more in it."""

import json
import os
import signal
import subprocess
import time

from common import median_seconds, show
from sandboxed import go_inside, sandbox

TIMES = 30
JOBS = 'i=0; while [ $i -lt {count} ]; do sleep 1000 & i=$((i + 1)); done; exec "$@"'
NATIVE = {"generation": "C", "boot_window_ms": 0}


def reference() -> list[float]:
    """SIGSTOP to one process until it has stopped, and SIGCONT."""
    from t3flow.host import processes

    child = subprocess.Popen(["sleep", "1000"])

    def stop_and_go() -> None:
        os.kill(child.pid, signal.SIGSTOP)
        while not processes.is_stopped(child.pid):
            time.sleep(0.0001)
        os.kill(child.pid, signal.SIGCONT)

    try:
        return median_seconds(stop_and_go, TIMES)
    finally:
        child.kill()
        child.wait()


def held(count: int) -> list[float]:
    """The seconds from the first stop until all go on, for a launcher, a server, its monitor and so many jobs."""
    from t3flow.consumer import open_journal
    from t3flow.host import holding, idle
    from t3flow.host.host import open_host
    from t3flow.host.owned import OwnerReader

    with sandbox(["ada"]) as box:
        (box.top / "etc/t3-serve/ada.unit.json").write_text(json.dumps({"wrapper": JOBS.format(count=count)}))
        box.start("0.0.24", {}, NATIVE)
        host = open_host(box.settings, open_journal(box.settings))
        server = host.services.state("ada")

        def hold_and_read() -> float:
            with OwnerReader(host, "ada") as reader:
                with holding.held(lambda: host.services.pids_of("ada", server)) as hold:
                    unit = idle.look_at_unit(host, "ada", server)
                    idle.judge(host, "ada", server, unit, reader, canary=True, ignore_processes=False)
                return time.monotonic() - hold.since

        return [hold_and_read() for _ in range(TIMES)]


def main() -> None:
    go_inside()
    against = reference()
    show("one process stopped and let go", against)
    for count in (1, 10, 50):
        show(f"a unit with {count} processes more, held and read", held(count), "one process", against)


if __name__ == "__main__":
    main()
