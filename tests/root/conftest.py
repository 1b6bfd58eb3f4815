"""Without root and its own mounts these tests are skipped, with a prominent message."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mounting import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, libc, mount
from world import World

REASON = "NOT TESTED AS ROOT"
FIRST_UID = 64100 + 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
ACCOUNTS = {"mallory": FIRST_UID + 1, "ada": FIRST_UID + 2, "t3flow": FIRST_UID + 3, "t3flow-web": FIRST_UID + 4}
"""Each worker has its own accounts, so that an attack on processes does not reach other tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of these tests, or none."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = "not root" if os.geteuid() != 0 else ""
    if ours and not reason and (pid := os.fork()) == 0:
        os._exit(libc.unshare(CLONE_NEWNS) != 0)
    elif ours and not reason and os.waitpid(pid, 0)[1] != 0:
        reason = "no mount namespace can be had"
    for item in ours if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"{REASON}: {reason}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report the skip at the end."""
    if any(REASON in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.section(REASON, sep="!", red=True, bold=True)


@pytest.fixture(scope="session")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Three accounts that exist only for this process and its children, and can read the program wherever it lies."""
    from t3flow.sandbox.enter import mount_for_nobody

    assert libc.unshare(CLONE_NEWNS) == 0
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    folder = tmp_path_factory.mktemp("etc")
    for name, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/bin/sh\n"), ("group", "{0}:x:{1}:\n")):
        real = Path("/etc", name)
        text = real.read_text() + "".join(line.format(*account) for account in ACCOUNTS.items())
        (folder / name).write_text(text)
        mount(str(folder / name), real, None, MS_BIND)
    mount_for_nobody()
    return ACCOUNTS


@pytest.fixture
def world(accounts: dict[str, int]) -> Iterator[World]:
    top = Path(tempfile.mkdtemp(prefix="t3h-", dir="/var/tmp"))
    made = World(top, accounts)
    try:
        yield made
    finally:
        made.stop()
        subprocess.run(["rm", "-rf", "--", str(top)], check=True)
