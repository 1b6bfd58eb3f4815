"""The status page with 100 users and 1,000 past runs: time to the first byte, size, a change on screen, 50 viewers, memory.

Every tenth of the past runs moved all users. The servers, the journal, and the consumer are real; only the length of the journal is artificial.
"""

import http.client
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import median_seconds, show, sized, wait_until
from sandboxed import LEVEL30, go_inside, sandbox
from status import remember

from t3flow.sandbox.host import Sandbox

USERS, TIMES, VIEWERS, CHANGES = sized((100, 40, 50, 8), (8, 3, 3, 2))
QUIET_SECONDS = sized(60.0, 2.0)
RUNS = sized(1000, 50)
ADMIN = "root@example.test"


class Connection(http.client.HTTPConnection):
    """HTTP over the page's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("page", timeout=60)
        self.path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def ask(path: Path, page: str) -> tuple[float, float, int]:
    """Return the seconds to the first byte and to the last, and how many bytes a page has."""
    connection = Connection(path)
    began = time.perf_counter()
    connection.request("GET", page, headers={"X-authentik-username": ADMIN})
    answer = connection.getresponse()
    first = time.perf_counter() - began
    size = len(answer.read())
    connection.close()
    return first, time.perf_counter() - began, size


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Viewer:
    """An open page that notes when a word came in."""

    def __init__(self, path: Path) -> None:
        self.connection = Connection(path)
        self.connection.request("GET", "/live", headers={"X-authentik-username": ""})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        self.seen: dict[str, float] = {}
        self.word = ""
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Read what comes."""
        while line := self.answer.readline().decode():
            if self.word and self.word in line:
                self.seen.setdefault(self.word, time.monotonic())


def changes(box: Sandbox, viewers: list[Viewer]) -> list[float]:
    """Return how long each of some freezes took from its commit to the last viewer."""
    taken = []
    for number in range(CHANGES):
        word = f"reason-number-{number}"
        for viewer in viewers:
            viewer.word = word
        box.settings.paths.freeze_file.unlink(missing_ok=True)
        time.sleep(1.3 + number * 0.07)
        began = time.monotonic()
        box.settings.paths.freeze_file.write_text(f"{word}\n")
        wait_until(lambda word=word: all(word in viewer.seen for viewer in viewers), "the change on each screen", 0.005)
        taken.append(max(viewer.seen[word] for viewer in viewers) - began)
    box.settings.paths.freeze_file.unlink()
    return taken


def main() -> None:
    """Measure."""
    users = [f"user{number:03}" for number in range(USERS)]
    with sandbox(users, quiet_seconds=0) as box:
        box.start("0.0.24", dict.fromkeys(users, LEVEL30), {"schema_level": 30})
        text = box.config.read_text().replace("[gate]", "[gate]\nseeds = 'largest'", 1)
        box.config.write_text(f'{text}[web]\nlisten = "unix://{box.top}/web.sock"\nadmins = ["{ADMIN}"]\n')
        box.start_consumer()
        box.publish("0.0.25-nightly.20260609.1", {"schema_level": 30})
        for user in users[::4]:
            box.control(user, "turn/start", agent="claude")
        big = box.document("enqueue", "bump", "--wait")
        small = box.document("enqueue", "bump", "--wait")
        remember(box, small["run"], big["run"], RUNS)
        environment = {**box.environment, "MALLOC_ARENA_MAX": "1"}
        page = subprocess.Popen([sys.executable, "-m", "t3flow", "web"], env=environment, cwd=box.top)
        path = box.top / "web.sock"
        try:
            box.until(lambda: path.exists(), "the page is served")
            measure(box, path, page.pid)
        finally:
            page.terminate()
            page.wait()


def measure(box: Sandbox, path: Path, pid: int) -> None:
    """Print each figure."""
    bare = median_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True), TIMES)
    show("bare start of the interpreter", bare)
    for page in ("/", "/runs", "/runs?user=user007", "/users/user004", "/snapshots"):
        taken = [ask(path, page) for _ in range(TIMES)]
        show(f"first byte of {page}", [each[0] for each in taken], "bare start", bare)
        print(f"{f'size of {page}':<46} {taken[-1][2] / 1000:12.1f} kB", flush=True)
    viewers = [Viewer(path) for _ in range(VIEWERS)]
    time.sleep(3)
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(QUIET_SECONDS)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    print(f"{f'{VIEWERS} viewers of a host with {USERS // 4} deferrals':<46} {share:12.2%} of a core", flush=True)
    taken = changes(box, viewers)
    print(
        f"{f'a change, to the last of {VIEWERS} viewers':<46} p50 {statistics.median(taken):8.2f} s    max {max(taken):8.2f} s"
    )
    print(f"{'memory of the page':<46} {resident_megabytes(pid):12.1f} MB", flush=True)


if __name__ == "__main__":
    go_inside()
    main()
