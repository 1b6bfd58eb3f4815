"""A socket like systemd's, for what the consumer sends to it."""

import socket
import time


class Ear:
    """A socket like systemd's, and all that it has received."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        self.socket.settimeout(0.2)
        self.heard: list[str] = []

    def hears(self, wanted: str, timeout_seconds: float = 15) -> bool:
        """Whether a word with this prefix arrives in time."""
        deadline = time.monotonic() + timeout_seconds
        while not any(word.startswith(wanted) for word in self.heard):
            if time.monotonic() > deadline:
                return False
            try:
                self.heard += self.socket.recv(4096).decode().split("\n")
            except TimeoutError:
                continue
        return True

    def forget(self) -> None:
        """Forget what was received."""
        self.heard = []
