"""Where this is not root with mounts of its own, its tests are skipped, and that is said where nobody overlooks it."""

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

REASON = "NOT TESTED AS ROOT"
ACCOUNTS = {"mallory": 64101, "ada": 64102, "t3flow": 64103}
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips them all, or none."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = "not root" if os.geteuid() != 0 else ""
    if ours and not reason and (pid := os.fork()) == 0:
        os._exit(_libc.unshare(CLONE_NEWNS) != 0)
    elif ours and not reason and os.waitpid(pid, 0)[1] != 0:
        reason = "no mount namespace can be had"
    for item in ours if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"{REASON}: {reason}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Loud enough."""
    if any(REASON in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.section(REASON, sep="!", red=True, bold=True)


def mount(source: str, target: Path, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2), seen by this process and its children alone."""
    words = (source.encode(), os.fsencode(target), kind.encode() if kind else None, flags, data.encode())
    if _libc.mount(*words) != 0:
        raise OSError(ctypes.get_errno(), f"mount on {target}")


@pytest.fixture(scope="session")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Three accounts that exist for this process and its children alone, to which the program is shown wherever it lies."""
    from t3flow.sandbox.enter import open_to_nobody

    assert _libc.unshare(CLONE_NEWNS) == 0
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    folder = tmp_path_factory.mktemp("etc")
    for name, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/bin/sh\n"), ("group", "{0}:x:{1}:\n")):
        real = Path("/etc", name)
        text = real.read_text() + "".join(line.format(*account) for account in ACCOUNTS.items())
        (folder / name).write_text(text)
        mount(str(folder / name), real, None, MS_BIND)
    open_to_nobody()
    return ACCOUNTS
