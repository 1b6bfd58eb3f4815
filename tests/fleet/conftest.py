"""Fixtures of the tests with a fleet."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import RedisServer
from fleets import Fleet
from hosts import make_keys, settings_of
from network import Network, reason_not_possible
from turns import MakeHost

from t3flow.fleet.members import Fleet as Members
from t3flow.fleet.members import open_fleet
from t3flow.host.host import Host, open_host
from t3flow.sandbox.enter import has_own_network
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip a test where hosts cannot have networks of their own."""
    if not has_own_network():
        pytest.skip("the tests are not in a sandbox: make suite")
    if reason := reason_not_possible():
        pytest.skip(reason)


@pytest.fixture
def network(namespaces: None) -> Iterator[Network]:
    """Return a network without hosts."""
    made = Network()
    yield made
    made.close()


@pytest.fixture
def make_fleet(namespaces: None) -> Iterator[Callable[..., Fleet]]:
    """Create fleets, close them, and check for leftovers."""
    made: list[Fleet] = []

    def make(*, persistent: bool = True) -> Fleet:
        made.append(Fleet(persistent=persistent))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def make_host(tmp_path: Path, redis_server: RedisServer) -> MakeHost:
    """Create hosts of one fleet, each with a journal, a user, and no servers."""
    make_keys(tmp_path, "a", "b", "c")

    def make(name: str, **more: object) -> tuple[Host, Members]:
        top = tmp_path / str(more.pop("folder", name))
        top.mkdir()
        url = more.pop("url", redis_server.url)
        extra = settings_of(name, tmp_path, str(url), **more)
        box = Sandbox(top, ["ada"], extra=extra)
        host = open_host(box.settings, open_journal(box.settings, create=True))
        fleet = open_fleet(host.settings)
        assert fleet is not None
        return host, fleet

    return make
