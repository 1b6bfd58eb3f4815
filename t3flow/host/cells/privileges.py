"""Give up the privileges of this process for good, before it runs code from the registry. Runs inside cells: standard library alone."""

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 23, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
NONE = "0" * 16
_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegesKept(OSError):
    """The kernel left this process with a privilege."""


def drop(uid: int | None, gid: int | None) -> None:
    """Change the account (None: no change), drop all capabilities, and end this process with its parent. Raises OSError.

    The same as `setpriv` does before it executes a program. The result is read back from the kernel.
    """
    if uid is not None and gid is not None:
        capability = 0
        while _libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
            _call("drop a capability", _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
            capability += 1
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _call("drop ambient capabilities", _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _call("drop capabilities", _libc.capset(header, none))
    _call("forbid new privileges", _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _call("end with the parent", _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _require_dropped(uid, gid)


def _require_dropped(uid: int | None, gid: int | None) -> None:
    """Raise PrivilegesKept unless the kernel says that nothing is left."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    wanted = {**dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), NONE), "NoNewPrivs": "1"}
    if uid is not None and gid is not None:
        wanted |= {"CapBnd": NONE, "Groups": ""}
        if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
            raise PrivilegesKept("the account was not changed")
    if kept := [name for name, value in wanted.items() if status.get(name) != value]:
        raise PrivilegesKept(f"privileges are left: {', '.join(kept)}")


def _call(what: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
