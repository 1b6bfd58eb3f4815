"""The program that works in a home, as t3flow runs it."""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress

import psutil
import pytest

from t3flow.host.backups import store
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.owner.program import run_as_owner


def test_one_that_is_killed_is_named_with_the_signal(bare: Callable[..., Host]) -> None:
    """It prints nothing: the kernel ends it when memory runs out."""
    host = bare()
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.01):
            for child in psutil.Process().children():
                with suppress(psutil.Error, ProcessLookupError):
                    if "rows" in child.cmdline():
                        os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with closing(sqlite3.connect(store.database_path(host, "ada"), isolation_level=None)) as other:
        other.execute("pragma journal_mode = delete")
        other.execute("begin exclusive")  # so that it waits
        killer.start()
        try:
            with pytest.raises(
                OwnerProblem, match=r"the home of ada failed: the program was killed by signal 9, .*journalctl -k$"
            ):
                run_as_owner(host, "ada", "rows")
        finally:
            ended.set()
            killer.join()
