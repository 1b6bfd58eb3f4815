"""A host and its page for each test, in a folder whose path is short enough for a socket."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import PageHost


@pytest.fixture
def make_host() -> Iterator[Callable[..., PageHost]]:
    """Create hosts without a page that runs."""
    made: list[PageHost] = []

    def make(users: tuple[str, ...] = ("ada", "grace", "linus"), listen: str = "") -> PageHost:
        made.append(PageHost(Path(tempfile.mkdtemp(prefix="t3w-", dir="/tmp")), list(users), listen))
        return made[-1]

    yield make
    for each in made:
        each.consumer.close()
        shutil.rmtree(each.top)


@pytest.fixture
def host(make_host: Callable[..., PageHost]) -> Iterator[PageHost]:
    """Return a host with three users whose page runs."""
    with make_host().serving() as served:
        yield served
