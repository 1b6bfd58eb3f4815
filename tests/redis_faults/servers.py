"""Real Redis servers, Sentinels, and a TCP proxy, as people run them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conftest import redis_program
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from t3flow.sandbox.host import free_port

UNPACKED = Path(__file__).parent.parent.parent / ".cache/redis/redis-server"
READY_SECONDS = 20.0


def tls_program() -> str | None:
    """Return a redis-server that speaks TLS: the one that prepare.sh unpacked, or the host's; None where there is none."""
    for program, linked in ((str(UNPACKED), UNPACKED.with_name("redis-program")), (shutil.which("redis-server"),) * 2):
        if program and os.access(program, os.X_OK):
            said = subprocess.run(["ldd", str(linked)], capture_output=True, text=True, check=False).stdout
            if "libssl" in said:
                return program
    return None


class Server:
    """A redis-server with a unix socket, and with a port if asked for. `options` are those of its command line."""

    def __init__(self, *options: str, port: int = 0, program: str = "", password: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="t3r-", dir="/tmp"))
        self.socket, self.port, self.password = self.folder / "s", port, password
        self.program, self.options = program or redis_program(), list(options)
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{f':{self.password}@' if self.password else ''}{self.socket}"

    @property
    def client(self) -> Redis:
        """A client of the test's own, which no fault cuts off once it is connected."""
        return Redis.from_url(self.url, single_connection_client=True)

    def start(self, *more: str, wait: bool = True) -> "Server":
        words = ["--port", str(self.port), "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.folder)]
        if self.password:
            words += ["--requirepass", self.password]
        with (self.folder / "log").open("ab") as log:
            self.child = subprocess.Popen([self.program, *words, *self.options, *more], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while wait and not self._answers():
            assert self.child.poll() is None, (self.folder / "log").read_text()[-800:]
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-800:]
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        with suppress(RedisError):
            return bool(Redis.from_url(self.url).ping())
        return False

    def stop(self, *, kindly: bool = False) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGTERM if kindly else signal.SIGKILL)
            self.child.wait()
            self.child = None
        self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class SentinelServer(Server):
    """A Sentinel that watches one primary."""

    def start(self, *more: str, wait: bool = True) -> "Server":
        config = self.folder / "sentinel.conf"
        if not config.exists():
            config.write_text("\n".join(self.options) + "\n")
        words = [str(config), "--sentinel", "--port", str(self.port), "--dir", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.child = subprocess.Popen([self.program, *words], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                Redis(port=self.port).ping()
                return self
            except AuthenticationError:
                return self
            except RedisError:
                pass
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-800:]
            time.sleep(0.05)


@contextmanager
def servers(*made: Server) -> Iterator[None]:
    """Start servers, and end them."""
    with contextlib.ExitStack() as stack:
        for each in made:
            stack.callback(each.close)
            each.start()
        yield


class Proxy:
    """A TCP proxy on loopback that comes from the address `source`.

    It cuts connections that are idle, as load balancers do: each one that is older than `cut_after_seconds`, when a reply has passed and no request follows.
    """

    def __init__(self, target: int, cut_after_seconds: float = 0.0, source: str = "127.0.0.1") -> None:
        self.target, self.cut_after_seconds, self.source = target, cut_after_seconds, source
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.cut = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        import select

        with suppress(ConnectionRefusedError), client, self._connect() as server:
            other: dict[Any, socket.socket] = {client: server, server: client}
            began = time.monotonic()
            with suppress(OSError):
                while True:
                    ready, _, _ = select.select(list(other), [], [])
                    for each in ready:
                        data = each.recv(65536)
                        if not data:
                            return
                        other[each].sendall(data)
                    is_idle = ready == [server] and not select.select([client], [], [], 0.02)[0]
                    if is_idle and self.cut_after_seconds and time.monotonic() - began > self.cut_after_seconds:
                        self.cut += 1
                        return

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.target), source_address=(self.source, 0))

    def close(self) -> None:
        self.listener.close()


def authority(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Make an authority of one's own with a certificate of 127.0.0.1, and return the files: authority, certificate, key."""
    ca, key, crt = folder / f"{name}-ca.pem", folder / f"{name}.key", folder / f"{name}.pem"
    openssl = lambda *words: subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)  # noqa: E731
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *ec, "-keyout", f"{name}-ca.key", "-out", ca.name, "-subj", f"/CN={name} authority")
    san = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    openssl(
        "req",
        "-x509",
        "-CA",
        ca.name,
        "-CAkey",
        f"{name}-ca.key",
        *ec,
        "-keyout",
        key.name,
        "-out",
        crt.name,
        "-subj",
        "/CN=localhost",
        *san,
    )
    return ca, crt, key


__all__ = ["Proxy", "SentinelServer", "Server", "authority", "free_port", "servers", "tls_program"]
