"""Owners of TCP ports, as the kernel reports them. While a server is stopped, any account can take its port.

A server binds 0.0.0.0. Another account can then still listen on an IPv6 address such as `::1`, but not on IPv4.
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

LISTEN_STATE = "0A"
LOOPBACK_ADDRESSES = ("0.0.0.0", "127.0.0.1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0")
"""Addresses whose listener may receive connections to 127.0.0.1."""
PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


class Listener(NamedTuple):
    """A listening socket: its address, the uid of its owner, its inode."""

    address: str
    uid: int
    inode: int


def listeners(port: int) -> list[Listener]:
    """Return the sockets that listen on a TCP port, on any address, IPv4 first."""
    with suppress(OSError):  # a kernel without sock_diag
        return [Listener(*each) for each in sock_diag.listening(port)]
    return listeners_in_tables(port)


def listeners_in_tables(port: int) -> list[Listener]:
    """Return the same from /proc, which lists every connection of the host."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == LISTEN_STATE and int(number, 16) == port:
                    found.append(Listener(_address(address), int(fields[7]), int(fields[9])))
    return found


def _address(digits: str) -> str:
    """Return an address of the kernel's tables: 32-bit words in host byte order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    return sock_diag.address_of(struct.pack(f"={len(words)}I", *words))


def is_owned_by(port: int, pids: Collection[int]) -> bool:
    """Return whether these processes of a unit own every socket that receives connections to 127.0.0.1 at the port."""
    reached = _loopback_sockets(port)
    return bool(reached) and reached <= _sockets_owned_by(pids, reached)


def listening_process(port: int, pids: Collection[int]) -> int | None:
    """Return the server: the process of a unit that receives connections to 127.0.0.1 at the port, or None if it is none of these.

    Of a process and its descendants that inherited the socket, the ancestor is the server.
    """
    reached = _loopback_sockets(port)
    if not reached or not reached <= _sockets_owned_by(pids, reached):
        return None
    holders = [pid for pid in pids if not reached.isdisjoint(_sockets(pid))]
    return next((pid for pid in holders if not set(proc.ancestors(pid, pids)) & set(holders)), None)


def _loopback_sockets(port: int) -> set[int]:
    """Return the sockets that may receive connections to 127.0.0.1: those on IPv4, or if there are none, those on IPv6."""
    reached = [each for each in listeners(port) if each.address in LOOPBACK_ADDRESSES]
    return {each.inode for each in [each for each in reached if ":" not in each.address] or reached}


def _sockets_owned_by(pids: Collection[int], wanted: set[int]) -> set[int]:
    """Return which of these sockets the processes have open. Stops once all are found."""
    found: set[int] = set()
    for pid in pids:
        if wanted <= found:
            break
        found |= wanted.intersection(_sockets(pid))
    return found


def foreign_listeners(port: int, pids: Collection[int]) -> str:
    """Describe the listeners on a port, on any address, that do not belong to these processes; "" if there are none."""
    found = listeners(port)
    own = _sockets_owned_by(pids, {each.inode for each in found})
    return ", ".join(_describe(each) for each in found if each.inode not in own)


def port_blocker(port: int, pids: Collection[int]) -> str:
    """Describe the process that keeps the unit of these processes from its port; "" if the unit has the port or can bind it."""
    if is_owned_by(port, pids) or can_be_bound(port):
        return ""
    return foreign_listeners(port, pids) or ("" if listeners(port) else _bound_without_listening(port))


def can_be_bound(port: int) -> bool:
    """Return whether a server could bind the port. Binding like this, without listening, does not block a server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return True
    return False


def _bound_without_listening(port: int) -> str:
    """Describe the process that has bound a port without listening. No kernel table shows it, so every socket is inspected.

    Ports of other network namespaces, such as those of containers, are other ports.
    """
    network = os.stat("/proc/self/ns/net").st_ino
    for pid in _all_pids():
        with suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino != network:
                continue
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:") and _port_of(pid, int(number)) == port:
                    return f"{_account_name(os.stat(f'/proc/{pid}').st_uid)} ({_describe_process(pid)}), which does not listen"
    return "an unknown process that does not listen (t3flow doctor may identify it)"


def _port_of(pid: int, number: int) -> int | None:
    """Return the local port of another process's TCP socket; None for other sockets and for inaccessible ones."""
    process = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if copy < 0:
        return None
    with socket.socket(fileno=copy) as duplicate:
        is_tcp = duplicate.family in (socket.AF_INET, socket.AF_INET6) and duplicate.type == socket.SOCK_STREAM
        return int(duplicate.getsockname()[1]) if is_tcp else None


def _sockets(pid: int) -> Iterator[int]:
    """Yield the inodes of a process's sockets, as far as they are visible."""
    return (int(path[8:-1]) for path in proc.open_files(pid) if path.startswith("socket:["))


def _all_pids() -> Iterator[int]:
    """Yield every process of the host: only to name a foreign process, never to decide about a user."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _describe(listener: Listener) -> str:
    """Return `mallory (pid 77, python3) on ::1`."""
    holder = next((pid for pid in _all_pids() if listener.inode in _sockets(pid)), None)
    process = f" ({_describe_process(holder)})" if holder is not None else ""
    return f"{_account_name(listener.uid)}{process} on {listener.address}"


def _describe_process(pid: int) -> str:
    """Return `pid 77, python3`. A process can set its own name."""
    return f"pid {pid}, {proc.name_of(pid)}"


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
