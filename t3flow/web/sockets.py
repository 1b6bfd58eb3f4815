"""The socket that the page listens on: systemd's, a Unix socket of its own, or a port on loopback.

Only a Unix socket that the kernel keeps closed to other accounts may carry names: the reverse proxy behind it says who asks. Through any other
socket, every account of the host could claim any name, so the page takes none there and is read-only.
"""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from t3flow import T3flowError

FIRST_INHERITED = 3
"""systemd passes sockets from this file descriptor on (sd_listen_fds(3))."""
BACKLOG = 128
CLOSED_TO_OTHERS = 0o117
"""The umask under which a socket is for its owner and its group alone: 0660."""


class CannotListen(T3flowError):
    """The page cannot be served. The text says why, and what to do."""


class Listener(NamedTuple):
    """A socket to accept from. `distrusted`: why user names are not taken from it; "" where they are. `path`: what to remove at the end."""

    socket: socket.socket
    distrusted: str
    path: Path | None = None

    def close(self) -> None:
        """Close the socket, and remove its path if this process made it and nothing else lies there by now."""
        self.socket.close()
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()


def listen(address: str) -> Listener:
    """Return the socket that systemd passed, else one at `web.listen`. Raises CannotListen."""
    inherited = _inherited()
    if inherited is not None:
        return inherited
    if not address:
        raise CannotListen("web.listen is empty, so there is no page; set it to unix:///run/t3flow/web.sock")
    if address.startswith("unix://"):
        path = Path(urlsplit(address).path)
        return Listener(_unix(path), "", path)
    return Listener(_loopback(address), f"user names are not taken from a TCP port ({address})")


def _inherited() -> Listener | None:
    """Return the socket of the socket unit; None for a process that systemd has not activated by one."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return None
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if count != "1":
        raise CannotListen(f"systemd passes {count or 'no'} sockets, and the page takes one: see t3flow-web.socket")
    given = socket.socket(fileno=FIRST_INHERITED)
    os.set_inheritable(FIRST_INHERITED, False)
    if given.family != socket.AF_UNIX:
        return Listener(given, "user names are not taken from a TCP port")
    return Listener(given, _open_to_others(str(given.getsockname())))


def _open_to_others(path: str) -> str:
    """Return why names cannot be taken from a Unix socket that another process made; "" if only its owner and its group can connect."""
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"user names are not taken from {path}, which cannot be looked at ({error.strerror})"
    if not stat.S_ISSOCK(status.st_mode):
        return f"user names are not taken from {path}, which is not the socket that this process has"
    if status.st_mode & stat.S_IWOTH:
        return f"user names are not taken from {path}, because every account can connect to it: set SocketMode=0660"
    return ""


def _unix(path: Path) -> socket.socket:
    """Return a socket at `path` for its owner and group alone. One that a killed page left is replaced; anything else there stays."""
    fresh = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        former = os.umask(CLOSED_TO_OTHERS)
        try:
            fresh.bind(str(path))
        finally:
            os.umask(former)
        fresh.listen(BACKLOG)
    except OSError as error:
        fresh.close()
        raise CannotListen(f"cannot listen on {path} ({error.strerror or error}): check web.listen") from error
    except CannotListen:
        fresh.close()
        raise
    return fresh


def _remove_stale(path: Path) -> None:
    """Remove a socket that nothing accepts from. Raises CannotListen for one that is served, and for any other file."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise CannotListen(f"{path} exists and is not a socket; remove it, or set another web.listen")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(1)
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise CannotListen(f"{path} is in use ({error.strerror or error}); set another web.listen") from error
    raise CannotListen(f"another process serves {path}; stop it first: systemctl stop t3flow-web.socket t3flow-web")


def _loopback(address: str) -> socket.socket:
    """Return a socket on a port of loopback."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    fresh = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        fresh.bind(("127.0.0.1" if host == "localhost" else host, int(port)))
        fresh.listen(BACKLOG)
    except OSError as error:
        fresh.close()
        raise CannotListen(
            f"cannot listen on {address} ({error.strerror or error}): set another port as web.listen"
        ) from error
    return fresh
