"""A bump of ten users on a real systemd, beside the structure of the shell procedure: one install, one gate, serial restarts polled every 2 s.

Needs root. Both use the same builds, users, dispatch and probe: a request to each server 50 ms after its last response. Downtime is the time without
a response. The builds do not change the schema, so that the reference, which has one program for all users, is not charged for users that it leaves
unable to pair.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/box"))

from box import DISPATCH_PORT, SOURCE, Box, fetch_wheels  # noqa: E402
from common import end_on_signals, sized, waiting  # noqa: E402

from t3flow.sandbox.folders import temporary_folder  # noqa: E402

NAMES = ["ada", "alan", "barbara", "donald", "edsger", "frances", "grace", "john", "ken", "linus"]
USERS = sized(NAMES, NAMES[:2])
FIRST, NEXT, LAST = "0.0.24", "0.0.25-nightly.20260601.501", "0.0.25-nightly.20260602.502"
LEVEL = {"schema_level": 30}
GATE_PORT = 3999
GUARDED = "T3FLOW_BENCH_GUARDED"
"""The variable of a process that is in a PID namespace: the pid outside."""
FACTOR = 10
"""How many times the timeouts of the tests to wait."""

SHELL = f"""
npm install --global --prefix /usr --no-audit --no-fund "t3@$1" >/dev/null
scratch=$(mktemp -d /var/tmp/gate.XXXXXX); mkdir "$scratch/userdata"
python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("vacuum into ?", (sys.argv[2],))' \\
  "/home/$2/.t3/userdata/state.sqlite" "$scratch/userdata/state.sqlite"
t3 serve --host 0.0.0.0 --port {GATE_PORT} --base-dir "$scratch" >"$scratch/log" 2>&1 & server=$!
until curl -fs -o /dev/null "http://127.0.0.1:{GATE_PORT}/"; do sleep 2; done
t3 auth pairing create --json --base-dir "$scratch" >"$scratch/credential"
kill "$server"; wait "$server" || true; rm -rf "$scratch"
shift
for user; do
  systemctl stop "t3-serve@$user"; systemctl reset-failed "t3-serve@$user"; systemctl start "t3-serve@$user"
  until curl -s -i -m 20 -H "X-authentik-username: $user@example.test" http://127.0.0.1:{DISPATCH_PORT}/ | grep -q '^HTTP/1.1 302'; do sleep 2; done
done
"""

WATCH = """
import http.client, json, sys, threading, time
until, ports = Path(sys.argv[1]), json.loads(sys.argv[2])
good = {user: [] for user in ports}
def watch(user):
    while not until.exists():
        began = time.time()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", ports[user], timeout=1)
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                good[user].append((began, time.time()))
            connection.close()
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
threads = [threading.Thread(target=watch, args=(user,)) for user in ports]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(good))
"""


class PatientBox(Box):
    """A box on a loaded machine. Prints to stderr what a long wait waits for."""

    def devbox(self, *words: str, timeout_seconds: float = 120, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Run devbox.sh."""
        with waiting(f"`devbox.sh {' '.join(' '.join(words).split())[:80]}`"):
            return super().devbox(*words, timeout_seconds=FACTOR * timeout_seconds, text=text)

    def until(
        self, holds: Callable[[], Any], what: str, timeout_seconds: float = 30, every_seconds: float = 0.5
    ) -> Any:
        """Wait until a value is true, and return it."""
        with waiting(f"this: {what}"):
            return super().until(holds, what, FACTOR * timeout_seconds, every_seconds)


def guard() -> None:
    """Execute this program in a PID namespace and a mount namespace: the machine that it boots ends with it."""
    if GUARDED not in os.environ:
        remove_left()
        words = ["unshare", "--mount", sys.executable, "-I", "-m", "t3flow.sandbox.guard", sys.executable, *sys.argv]
        os.execvpe(words[0], words, {**os.environ, GUARDED: str(os.getpid())})
    end_on_signals()


def remove_left() -> None:
    """Remove the empty control groups and folders of a machine that ended with a killed benchmark."""
    for pattern in ("sys/fs/cgroup/t3bench*", "sys/fs/cgroup/*/t3bench*", "tmp/t3bench*-state"):
        for path in Path("/").glob(pattern):
            pid = path.name.removeprefix("t3bench").removesuffix("-state")
            if not Path("/proc", pid).exists():
                words = ["find", path, "-xdev", "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]
                subprocess.run(words, stderr=subprocess.DEVNULL, check=False)


def away(answers: list[list[float]]) -> float:
    """Return the longest time without a response in seconds, from request to response."""
    return max(after[0] - before[1] for before, after in itertools.pairwise(answers))


def measured(box: Box, name: str, *words: str) -> tuple[float, list[float]]:
    """Return the duration of a bump, and the downtime of each user."""
    folder = f"/srv/{name}"
    box.write(f"{folder}.py", "from pathlib import Path\n" + WATCH)
    box.run(
        *("systemd-run", "--quiet", f"--unit={name}", f"--property=StandardOutput=file:{folder}.json", "python3"),
        *(f"{folder}.py", f"{folder}.end", json.dumps(box.ports)),
    )
    time.sleep(2)
    began = time.monotonic()
    box.run(*words, timeout_seconds=600)
    took = time.monotonic() - began
    time.sleep(2)
    box.run("touch", f"{folder}.end")
    box.until(lambda: box.try_run("systemctl", "is-active", name).returncode != 0, "the watch has ended")
    answers: dict[str, Any] = json.loads(box.run("cat", f"{folder}.json"))
    return took, sorted(away(answers[user]) for user in USERS)


def main() -> None:
    """Measure the reference, adopt the host, then measure t3flow."""
    if os.geteuid() != 0:
        print("a bump beside the shell procedure: needs root, skipped")
        return
    guard()
    subprocess.run(["sh", ROOT / "tests/box/prepare.sh"], check=True)
    with temporary_folder("t3flow-bench-", Path("/var/tmp")) as folder:
        box = PatientBox(USERS, fetch_wheels(folder))
        box.environment |= {"DEVBOX_NAME": f"t3bench{os.environ[GUARDED]}", "DEVBOX_TIMEOUT": "600"}
        try:
            box.boot()
            box.set_up(FIRST, dict.fromkeys(USERS, ROOT / "tests/data/state-level30.sqlite"), LEVEL)
            box.publish(NEXT, LEVEL)
            reference = measured(box, "watch-shell", "sh", "-euc", SHELL, "sh", NEXT, *USERS)
            box.write("/var/lib/t3-autoupdate/last-good", f"{NEXT}\n")
            box.run(f"{SOURCE}/deploy/install.sh")
            box.sh("sed -i 's|^#window = .*|window = \"\"|' /etc/t3flow/config.toml")
            box.run("systemctl", "restart", "t3flow")
            box.run("t3flow", "adopt")
            box.publish(LAST, LEVEL)
            ours = measured(box, "watch-t3flow", "t3flow", "enqueue", "bump", "--wait")
            assert box.document("status")["default_version"] == LAST
        finally:
            box.close()
    for name, (took, gone) in (("shell procedure", reference), ("t3flow", ours)):
        ratios = f"   {took / reference[0]:.2f} × and {median(gone) / median(reference[1]):.2f} × shell procedure"
        print(
            f"{name:<16} {len(USERS)} users in {took:6.1f} s   a user away p50 {median(gone):5.2f} s, most {gone[-1]:5.2f} s{ratios}"
        )


if __name__ == "__main__":
    main()
