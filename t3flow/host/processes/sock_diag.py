"""Listening TCP sockets, read by netlink (sock_diag(7), `inet_diag_req_v2` in linux/inet_diag.h).

The kernel then reads only its table of listeners. /proc/net/tcp lists every connection: 30 ms for 2,000 of them, while a unit is suspended.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterator

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
ONLY_LISTENING = 1 << 10
ANSWER_SECONDS = 2.0
HEADER = struct.Struct("=IHHII")
PORT_AT, ADDRESS_AT, UID_AT = 4, 8, 64
"""Offsets in `inet_diag_msg` of the source port and address, and of uid and inode."""
BUFFER_BYTES = 256 * 1024


def listening(port: int) -> list[tuple[str, int, int]]:
    """Return (address, uid, inode) of each socket that listens on a TCP port, IPv4 first. Raise OSError if the kernel does not answer."""
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(ANSWER_SECONDS)
        for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            request = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, ONLY_LISTENING) + bytes(48)
            netlink.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + request)
            for body in _messages(netlink):
                if struct.unpack_from("!H", body, PORT_AT)[0] == port:
                    address = address_of(body[ADDRESS_AT : ADDRESS_AT + length])
                    found.append((address, *struct.unpack_from("=II", body, UID_AT)))
    return found


def _messages(netlink: socket.socket) -> Iterator[bytes]:
    """Yield the body of each message up to NLMSG_DONE. Raise OSError."""
    while True:
        data = netlink.recv(BUFFER_BYTES)
        while data:
            length, kind, _, _, _ = HEADER.unpack_from(data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", data, HEADER.size)[0]
                raise OSError(code, "the kernel does not list listening sockets")
            yield data[HEADER.size : length]
            data = data[(length + 3) & ~3 :]


def address_of(packed: bytes) -> str:
    """Return an address in network byte order as text; an IPv4-mapped IPv6 address as `::ffff:127.0.0.1`."""
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)
