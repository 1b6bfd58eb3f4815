"""Whose a TCP port is, by the kernel's word alone. A port is free for anybody to take while its server is stopped.

A server binds 0.0.0.0. Beside it another account may listen on an IPv6 address such as `::1`; nobody beside it can listen on IPv4.
"""

import ctypes
import os
import pwd
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from t3flow.host.processes import proc, sock_diag

LISTENS = "0A"
BY_LOOPBACK = ("0.0.0.0", "127.0.0.1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0")
"""Addresses at which a listener may be what 127.0.0.1 leads to."""
PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


class Listener(NamedTuple):
    """A socket that listens on a port: its address, its owner's uid, its inode."""

    address: str
    uid: int
    inode: int


def listeners(port: int) -> list[Listener]:
    """Return the sockets that listen on a TCP port, on any address, IPv4 first."""
    with suppress(OSError):  # a kernel without sock_diag
        return [Listener(*each) for each in sock_diag.listening(port)]
    return listeners_in_tables(port)


def listeners_in_tables(port: int) -> list[Listener]:
    """Return the same by /proc, which lists every connection of the host."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == LISTENS and int(number, 16) == port:
                    found.append(Listener(_address(address), int(fields[7]), int(fields[9])))
    return found


def _address(digits: str) -> str:
    """An address as the kernel's tables have it: words of 32 bits in the host's order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    return sock_diag.address_of(struct.pack(f"={len(words)}I", *words))


def is_own(port: int, pids: Collection[int]) -> bool:
    """Return whether what 127.0.0.1 leads to at the port is one of these processes of a unit."""
    reached = _reached(port)
    return bool(reached) and reached <= _held_by(pids, reached)


def listener(port: int, pids: Collection[int]) -> int | None:
    """Return the process of a unit that is the server, which 127.0.0.1 leads to at the port; None where it is none of them.

    A child that has inherited the socket is not the server while a process above it holds the socket too.
    """
    reached = _reached(port)
    if not reached or not reached <= _held_by(pids, reached):
        return None
    holders = [pid for pid in pids if not reached.isdisjoint(_sockets(pid))]
    return next((pid for pid in holders if not set(proc.ancestors(pid, pids)) & set(holders)), None)


def _reached(port: int) -> set[int]:
    """The sockets that 127.0.0.1 may lead to: those on IPv4, or where there are none those on IPv6."""
    reached = [each for each in listeners(port) if each.address in BY_LOOPBACK]
    return {each.inode for each in [each for each in reached if ":" not in each.address] or reached}


def _held_by(pids: Collection[int], wanted: set[int]) -> set[int]:
    """Which of these sockets the processes have open. Looks no further than it must."""
    found: set[int] = set()
    for pid in pids:
        if wanted <= found:
            break
        found |= wanted.intersection(_sockets(pid))
    return found


def strangers(port: int, pids: Collection[int]) -> str:
    """Who listens on a user's port and is not of their unit, on whatever address, for people; "" for nobody."""
    found = listeners(port)
    own = _held_by(pids, {each.inode for each in found})
    return ", ".join(_described(each) for each in found if each.inode not in own)


def who_shuts_out(port: int, pids: Collection[int]) -> str:
    """Who holds a port so that the unit of these processes cannot have it, for people; "" while it has it, or could."""
    if is_own(port, pids) or _can_be_bound(port):
        return ""
    return strangers(port, pids) or ("" if listeners(port) else _who_only_binds(port))


def _can_be_bound(port: int) -> bool:
    """As a server would bind it. Bound like this and not listening, it is in no server's way."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return True
    return False


def _who_only_binds(port: int) -> str:
    """Who holds a port without listening, which no table of the kernel's shows: each such socket is looked at."""
    for pid in _all():
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:") and _port_of(pid, int(number)) == port:
                    return f"{_account_name(os.stat(f'/proc/{pid}').st_uid)} ({_process(pid)}), who does not listen"
    return "somebody who does not listen (t3flow doctor may name them)"


def _port_of(pid: int, number: int) -> int | None:
    """The local port of a TCP socket of another process; None for other sockets, and for those that cannot be looked at."""
    process = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if copy < 0:
        return None
    with socket.socket(fileno=copy) as looked_at:
        is_tcp = looked_at.family in (socket.AF_INET, socket.AF_INET6) and looked_at.type == socket.SOCK_STREAM
        return int(looked_at.getsockname()[1]) if is_tcp else None


def _sockets(pid: int) -> Iterator[int]:
    """The inodes of a process's sockets, as far as they may be seen."""
    return (int(path[8:-1]) for path in proc.opened(pid) if path.startswith("socket:["))


def _all() -> Iterator[int]:
    """Every process of the host: to name a stranger who is in the way, not to judge a user by."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _described(listener: Listener) -> str:
    """For people, as `mallory (pid 77, python3) on ::1`."""
    holder = next((pid for pid in _all() if listener.inode in _sockets(pid)), None)
    process = f" ({_process(holder)})" if holder is not None else ""
    return f"{_account_name(listener.uid)}{process} on {listener.address}"


def _process(pid: int) -> str:
    """The process, by a name that it may have chosen itself."""
    return f"pid {pid}, {proc.name_of(pid)}"


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
