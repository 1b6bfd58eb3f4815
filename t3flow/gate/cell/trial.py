"""The trial of a version on one copy of a set, inside a cell, as the unprivileged account.

usage: python -m t3flow.gate.cell.trial < REQUEST   (one JSON document)
       → one JSON document {"checks": [{"name", "ok", "evidence"}], "level", "schema", "live", "slow", "started_s", "server_s", "cpu_s", "unknown",
       "used"}

In a cell, this is the first process of its namespace: it inherits orphans, signals from the program under trial do not reach it, and all
processes end with it. The checks follow a user's day: the program prints its version, its server starts on the set, answers, pairs two browsers,
shows real rows, idles, stops when asked, and starts again on the migrated set; finally, the set has lost nothing.

A check fails when the version breaks something. If the version does something in a way unknown to t3flow, the trial is inconclusive and `unknown`
says what: a live database with another name or other tables, paths that do not exist. docs/gate.md has the rule.
"""

import ctypes
import errno
import json
import signal
import sys
import time
from typing import Any

from t3flow.gate.cell.checks import Checks, Inconclusive
from t3flow.gate.cell.database import Unreadable
from t3flow.gate.cell.output import clean
from t3flow.gate.cell.server import Failed
from t3flow.host import http_client
from t3flow.host.cells import bounds, processes
from t3flow.t3.unknown import Unknown

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
HOST_ERRORS = {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
"""Errors that this process itself gets when the host runs out of processes, memory, files or disk."""


def run_trial(request: dict[str, Any]) -> dict[str, Any]:
    """Run all checks in order, up to the first that fails. Raises Inconclusive, Unreadable."""
    checks = Checks(request)
    checks.state.read_before()
    watch = bounds.BoundsWatch(request["bounds"])
    try:
        watch.start()
    except RuntimeError as error:
        raise Inconclusive(f"the host ran out of resources before the trial: {error}") from error
    results: list[dict[str, Any]] = []
    slow, unknown = False, ""
    try:
        for check in checks.in_order():
            try:
                evidence = check()
                if watch.exceeded:
                    raise Failed(watch.exceeded)
                results.append({"name": check.__name__, "ok": True, "evidence": clean(evidence)})
            except (Failed, Unknown, OSError, ValueError) as error:
                watch.stop()
                if isinstance(error, OSError) and error.errno in HOST_ERRORS and not watch.exceeded:
                    raise Inconclusive(f"the host ran out of resources during the trial: {error.strerror}") from error
                unknown = clean(str(error)) if isinstance(error, Unknown) and not watch.exceeded else ""
                slow = isinstance(error, TimeoutError) or (isinstance(error, Failed) and error.slow)
                evidence = clean(watch.exceeded or _evidence(checks, error))
                results.append({"name": check.__name__, "ok": False, "evidence": evidence})
                break
    finally:
        watch.stop()
        processes.end_all()
    return {
        "checks": results,
        "level": checks.state.level(),
        "schema": checks.state.schema(),
        "live": checks.state.open,
        "slow": slow,
        "started_s": round(checks.server.slowest_start_seconds, 3),
        "server_s": round(checks.server.own_seconds, 3),
        "cpu_s": round(time.process_time(), 3),
        "unknown": unknown,
        "used": watch.most,
    }


def _evidence(checks: Checks, error: Exception) -> str:
    if isinstance(error, Failed | Unknown):
        return str(error)
    reason = http_client.reason(error) if isinstance(error, OSError) else str(error)
    return checks.server.ended() or f"the server does not answer as expected: {reason}"


def main() -> int:
    """Read the request, run the trial, write the result."""
    libc = ctypes.CDLL(None)
    # the program under trial has the same account and must not attach to this process
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.load(sys.stdin)
    try:
        answer = run_trial(request)
    except Unreadable as error:
        answer = {"problem": f"the copy of the databases cannot be read: {error}"}
    except Inconclusive as error:
        answer = {"problem": str(error)}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
