"""Ending everything that runs as the gate's account, which is t3flow's own: no install script's child may outlive its install.

Where namespaces can be had a cell's end does that. Elsewhere a child in a session of its own would survive, and could change what root is about
to copy. One after another they could be outrun: by forking faster than /proc is read. So a process of the account asks the kernel to end all
others of the account at once; its real and saved ids are an account that does not exist, so that none of those can end it first.
"""

import pwd
import sys
import time
from contextlib import suppress

from loguru import logger

from t3flow import T3flowError
from t3flow.host.host import Host, uid_of
from t3flow.host.processes import proc

END_SECONDS = 10.0
ROUND_SECONDS = 5.0
SHARED = ("nobody", "daemon", "bin")
PEOPLE = range(1000, 60000)
"""Numbers that accounts of people have, and some of services. These have no shell."""
NO_SHELLS = ("nologin", "false")
NOBODY = 65534
NO_ACCOUNT = 2**32 - 9
"""A uid that no account has, and that is not the reserved 2**32 - 1."""
ENDING = """
import os, signal, sys
uid, gid, other = map(int, sys.argv[1:])
os.setgroups([])
os.setresgid(gid, gid, gid)
try:
    os.setresuid(other, uid, other)
except (OSError, OverflowError):  # a namespace without that id
    os.setresuid(uid, uid, uid)
assert uid > 0 and os.geteuid() == uid and os.getuid() in (other, uid)
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    pass
"""


class ProcessesLeft(T3flowError):
    """Processes of the gate's account do not end."""


def shared_trouble(host: Host) -> str:
    """Return why the gate's account is not t3flow's own, or "": what runs as it must not be ended then.

    Images of containers use the numbers below 1000 that a host gives to accounts of services, and the kernel knows numbers alone.
    """
    who = host.gate_account()
    mend = "useradd --system t3flow, and set gate.user to it"
    if who.name in SHARED or who.uid >= NOBODY:
        return f"gate.user is {who.name}, which other services may run as: {mend}"
    with suppress(T3flowError):
        if any(entry.name == who.name or uid_of(entry.name) == who.uid for entry in host.user_map().users):
            return f"gate.user is {who.name}, who is in the user map: {mend}"
    with suppress(KeyError):
        if who.uid in PEOPLE and not pwd.getpwnam(who.name).pw_shell.endswith(NO_SHELLS):
            return f"gate.user is {who.name}, whom a person may log in as: {mend}"
    if others := proc.in_containers(proc.of_account(who.uid)):
        what = f"{proc.described(others[:1])} in a container runs under the number {who.uid} of {who.name}, too"
        return f"{what}: usermod --uid NUMBER {who.name}, with one that nothing else has"
    return ""


def end_all(host: Host) -> int:
    """End all processes of the gate's account; return how many were seen. Idempotent. Raises ProcessesLeft, ChildError, Interrupted.

    Not in the sandbox, where that account is this process's own.
    """
    who = host.gate_account()
    if not who.is_other:
        return 0
    if shared := shared_trouble(host):
        logger.warning("what an install may have left running is not ended: {}", shared)
        return 0
    deadline = time.monotonic() + END_SECONDS
    found = set(_living(who.uid))
    while True:
        # Also with none found: one that forks faster than it is listed is in no list.
        words = [sys.executable, "-I", "-S", "-c", ENDING, str(who.uid), str(who.gid), str(NO_ACCOUNT)]
        ended = host.children.run(words, timeout_seconds=ROUND_SECONDS)
        left = _living(who.uid)
        found.update(left)
        if ended.code == 0 and not left:
            break
        if time.monotonic() > deadline:
            what = proc.described(left[:3]) or ended.last_line
            raise ProcessesLeft(
                f"what runs as the account {who.name} does not end ({what}), so nothing is copied: "
                f"see what it hangs in (ps -o pid,stat,wchan,args -u {who.name})"
            )
        time.sleep(0.02)
    if found:
        logger.info("ended {} processes of {}", len(found), who.name)
    return len(found)


def _living(uid: int) -> list[int]:
    return [pid for pid in proc.of_account(uid) if proc.is_there(pid)]
