"""Fixtures of the tests with a fleet."""

from collections.abc import Callable, Iterator

import pytest
from fleets import Fleet
from network import Network, reason_not_possible

from t3flow.sandbox.enter import has_own_network


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
