"""A host without servers: its folders, settings, journal."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LEVEL30

from t3flow.host.host import Host, open_host
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Host]:
    """Makes a host with users who have databases and no servers."""

    def make(users: tuple[str, ...] = ("ada",), **more: float) -> Host:
        (tmp_path / "box").mkdir()
        box = Sandbox(tmp_path / "box", list(users), **more)
        for user in users:
            box.database(user).parent.mkdir()
            box.database(user).write_bytes(LEVEL30.read_bytes())
        return open_host(box.settings, open_journal(box.settings, create=True))

    return make
