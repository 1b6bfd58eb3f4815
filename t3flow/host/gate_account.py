"""The gate's account: kill all of its processes, so that no child of an install script outlives the install.

With namespaces, the end of a cell does this. Without them, a child in its own session would survive and could change files that root is about to
copy. Killing processes one by one loses against a fork bomb, so a process of the account calls `kill(-1)`, which kills all others of the account at
once. Its real and saved uids belong to no account, so that none of the others can kill it first.
"""

import pwd
import sys
import time
from contextlib import suppress

from t3flow import T3flowError
from t3flow.engine.log import logger
from t3flow.host.host import Host, uid_of
from t3flow.host.processes import listing, proc

END_SECONDS = 10.0
ROUND_SECONDS = 5.0
SHARED_NAMES = ("nobody", "daemon", "bin")
LOGIN_UIDS = range(1000, 60000)
"""Uids of people, and of some services; the latter have no login shell."""
NO_SHELLS = ("nologin", "false")
NOBODY = 65534
NO_ACCOUNT = 2**32 - 9
"""A uid that no account has and that is not the reserved 2**32 - 1."""
KILL_PROGRAM = """
import os, signal, sys
uid, gid, other = map(int, sys.argv[1:])
os.setgroups([])
os.setresgid(gid, gid, gid)
try:
    os.setresuid(other, uid, other)
except (OSError, OverflowError):  # a user namespace without that uid
    os.setresuid(uid, uid, uid)
assert uid > 0 and os.geteuid() == uid and os.getuid() in (other, uid)
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    pass
"""


class ProcessesLeft(T3flowError):
    """Processes of the gate's account survive SIGKILL."""


def sharing_problem(host: Host) -> str:
    """Return why processes of the gate's account may belong to something else and must not be killed, or "".

    Container images use the same uids below 1000 as the host's services, and the kernel compares only numbers.
    """
    account = host.gate_account()
    remedy = "useradd --system t3flow, and set gate.user to it"
    if account.name in SHARED_NAMES or account.uid >= NOBODY:
        return f"gate.user is {account.name}, an account that other services use: {remedy}"
    with suppress(T3flowError):
        if any(entry.name == account.name or uid_of(entry.name) == account.uid for entry in host.user_map().users):
            return f"gate.user is {account.name}, an account in the user map: {remedy}"
    with suppress(KeyError):
        if account.uid in LOGIN_UIDS and not pwd.getpwnam(account.name).pw_shell.endswith(NO_SHELLS):
            return f"gate.user is {account.name}, an account with a login shell: {remedy}"
    if others := listing.in_containers(listing.pids_of_account(account.uid)):
        process = f"{proc.describe(others[:1])} in a container also runs under uid {account.uid} of {account.name}"
        return f"{process}: run usermod --uid UID {account.name} with an unused uid"
    return ""


def end_processes(host: Host) -> int:
    """Kill all processes of the gate's account and return how many were seen. Idempotent.

    A no-op in the sandbox, where this process runs as that account. Raise ProcessesLeft, ChildError, Interrupted.
    """
    account = host.gate_account()
    if not account.is_other:
        return 0
    if shared := sharing_problem(host):
        logger.warning("processes that an install may have left are not killed: {}", shared)
        return 0
    deadline = time.monotonic() + END_SECONDS
    found = set(_live_pids(account.uid))
    while True:
        # Even if none was found: a process that forks faster than /proc is read appears in no list.
        words = [sys.executable, "-I", "-S", "-c", KILL_PROGRAM, str(account.uid), str(account.gid), str(NO_ACCOUNT)]
        ended = host.children.run(words, timeout_seconds=ROUND_SECONDS)
        left = _live_pids(account.uid)
        found.update(left)
        if ended.code == 0 and not left:
            break
        if time.monotonic() > deadline:
            processes = proc.describe(left[:3]) or ended.last_line
            raise ProcessesLeft(
                f"processes of the account {account.name} survive SIGKILL ({processes}), so nothing is copied; "
                f"see where they hang: ps -o pid,stat,wchan,args -u {account.name}"
            )
        time.sleep(0.02)
    if found:
        logger.info("killed {} processes of {}", len(found), account.name)
    return len(found)


def _live_pids(uid: int) -> list[int]:
    return [pid for pid in listing.pids_of_account(uid) if proc.is_alive(pid)]
