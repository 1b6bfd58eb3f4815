"""The tests' network is one: hosts are apart, reach each other, and lose each other without a word when they are cut off."""

import os
import subprocess
import sys

import pytest
from network import HUB, Network

pytestmark = pytest.mark.processes
ANSWER = "import socket; s = socket.create_server(('0.0.0.0', 4000)); print('ready', flush=True)\nwhile True: s.accept()[0].sendall(b'x')"
ASK = "import socket; print(socket.create_connection(({!r}, {}), timeout={}).recv(1))"


def ask(network: Network, host: str, address: str, seconds: float = 5) -> str:
    """Return what a server at an address says to a host, or the last line of the error."""
    words = [*network.words(host), sys.executable, "-c", ASK.format(address, 4000, seconds)]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    return (finished.stdout or finished.stderr).splitlines()[-1]


def test_hosts_have_a_network_that_can_be_cut(network: Network) -> None:
    address = network.add("one")
    network.add("two")
    server = subprocess.Popen([*network.words("one"), sys.executable, "-c", ANSWER], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        assert ask(network, "two", address) == "b'x'"
        assert ask(network, "one", "127.0.0.1") == "b'x'"
        assert "refused" in ask(network, "two", "127.0.0.1"), "loopback is each host's own"
        network.cut("one")
        assert "timed out" in ask(network, "two", address, 0.3), "nothing answers, not even with a refusal"
        assert ask(network, "one", "127.0.0.1") == "b'x'", "the host goes on by itself"
        assert "refused" in ask(network, "two", HUB)
        network.mend("one")
        assert ask(network, "two", address) == "b'x'"
    finally:
        server.kill()
        server.wait()


def test_programs_of_a_host_have_no_rights_over_it(network: Network) -> None:
    network.add("one")
    words = [*network.words("one"), "sh", "-c", "ip link set lo down; grep CapEff /proc/self/status; id -u"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "Operation not permitted" in said.stderr
    assert said.stdout.split() == ["CapEff:", "0" * 16, str(os.geteuid())]
