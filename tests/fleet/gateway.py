"""A relay in front of a server of the fleet, on a host's loopback, which can make the host crash at an exact command."""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

CHUNK_BYTES = 65536


class Gateway:
    """Relays connections. Once armed, it crashes the host at the first message of a client that matches: before or after the server handles it."""

    def __init__(self, host: str, port: int, crash: Callable[[], None]) -> None:
        self._server, self._crash = (host, port), crash
        self._pattern: re.Pattern[bytes] | None = None
        self._after = False
        self.fired = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, pattern: str, *, after: bool) -> None:
        """Crash at the next message that matches."""
        self.fired.clear()
        self._pattern, self._after = re.compile(pattern.encode(), re.IGNORECASE | re.DOTALL), after

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._server, timeout=5) as server:
            server.settimeout(None)
            doomed = threading.Event()
            threading.Thread(target=self._answers, args=(server, client, doomed), daemon=True).start()
            while asked := client.recv(CHUNK_BYTES):
                if self._pattern is not None and self._pattern.search(asked):
                    self._pattern = None
                    if not self._after:
                        self._fall()
                        return
                    doomed.set()
                server.sendall(asked)

    def _answers(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        with suppress(OSError):
            while answer := server.recv(CHUNK_BYTES):
                if doomed.is_set():
                    self._fall()
                    break
                client.sendall(answer)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _fall(self) -> None:
        self._crash()
        self.fired.set()
