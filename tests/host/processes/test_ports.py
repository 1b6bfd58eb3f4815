"""Listeners on a port, by netlink and by the kernel's tables."""

import os
import socket
import time
from contextlib import ExitStack

import pytest

from t3flow.host.processes import ports, sock_diag

FAMILIES = {"127.0.0.1": socket.AF_INET, "0.0.0.0": socket.AF_INET, "::1": socket.AF_INET6, "::": socket.AF_INET6}


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["0.0.0.0"], ["::1"], ["::"], ["127.0.0.1", "::1"], []])
def test_both_ways_say_the_same(addresses: list[str]) -> None:
    with ExitStack() as stack:
        port = 0
        for address in addresses:
            made = stack.enter_context(socket.socket(FAMILIES[address]))
            if FAMILIES[address] == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address == "::1")
            made.bind((address, port))
            made.listen()
            port = made.getsockname()[1]
        found = ports.listeners(port or 1)
        assert found == ports.listeners_in_tables(port or 1)
        assert [each.address for each in found] == addresses
        assert {each.uid for each in found} <= {os.geteuid()}


def test_an_address_that_is_mapped_leads_to_loopback() -> None:
    with socket.socket(socket.AF_INET6) as made:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        made.bind(("::ffff:127.0.0.1", 0))
        made.listen()
        port = made.getsockname()[1]
        [found] = ports.listeners(port)
        assert found.address == "::ffff:127.0.0.1"
        assert found.address in ports.LOOPBACK_ADDRESSES
        assert ports.is_owned_by(port, [os.getpid()])


def test_where_the_kernel_does_not_answer_the_tables_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "NETLINK_SOCK_DIAG", 31)
    with socket.create_server(("127.0.0.1", 0)) as made:
        assert len(ports.listeners(made.getsockname()[1])) == 1


def test_connections_of_others_cost_nothing() -> None:
    """The query runs while a unit is suspended: 400 connections do not make it slower, apart from a busy machine."""

    def fastest(port: int) -> float:
        return min(_seconds(port) for _ in range(20))

    def _seconds(port: int) -> float:
        began = time.perf_counter()
        assert ports.listeners(port)
        return time.perf_counter() - began

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        port = listener.getsockname()[1]
        alone = fastest(port)
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            stack.enter_context(listener.accept()[0])
        assert fastest(port) < 2 * alone + 0.0005
