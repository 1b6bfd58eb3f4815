"""usage: python -m t3flow.host.cells.build SPECIFICATION [COMMAND [ARGUMENT...]]: build a cell around this process, then run the command.

This is the first process of new namespaces (`cells.py` creates them). The root of the cell is an empty memory file system with the visible paths of
the host, read-only, and the writable ones; it has its own /proc, /tmp and loopback device, an account without privileges, and resource limits.
The cell vanishes when its first process ends.

SPECIFICATION (JSON): `visible` and `writable` paths, `uid` and `gid` (null: no change), `own_network`, `tmp_bytes`, `limits` (name of a
resource limit without RLIMIT_ → value), `module`: instead of a command, run `main()` of this module of t3flow in this process, which then has no
privileges ("": none; it saves the start of another Python), `init`: stay as the first process, reap orphans, and end the command when it exceeds
`bounds` (bounds.py).
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from t3flow.host.cells import privileges
from t3flow.host.cells.bounds import BoundsWatch
from t3flow.host.cells.processes import LOW_PRIORITY

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix/store", "/gnu/store")
RESOLVER = "/run/systemd/resolve"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442
_libc = ctypes.CDLL(None, use_errno=True)


def build(wanted: dict[str, Any]) -> None:
    """Build the cell and enter it, while this process still has the privileges for that. Raises OSError if the host does not allow it."""
    if wanted["own_network"]:
        raise_loopback()
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m,nr_inodes=4096")
    os.mkdir("/tmp/host")
    _call("pivot_root", _libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b"/tmp", b"/tmp/host"))
    os.chdir("/")
    _own_folders(wanted["tmp_bytes"])
    for path in _without_nested([*SYSTEM, RESOLVER, *wanted["visible"]]):
        _show(path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
    for path in wanted["writable"]:
        _show(path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    _call("umount", _libc.umount2(b"/host", MNT_DETACH))
    os.rmdir("/host")
    _set_attributes("/", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, recursive=False)


def _own_folders(tmp_bytes: int) -> None:
    for folder in ("/proc", "/tmp", "/var/tmp", "/dev/pts"):
        os.makedirs(folder)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={tmp_bytes},nr_inodes=20000")
    _mount("/tmp", "/var/tmp", None, MS_BIND)
    os.symlink("/tmp", "/dev/shm")
    for name in DEVICES:
        Path(f"/dev/{name}").touch()
        _mount(f"/host/dev/{name}", f"/dev/{name}", None, MS_BIND)
    _mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.symlink("/proc/self/fd", "/dev/fd")


def _show(path: str, attributes: int) -> None:
    """Mount a path of the host at the same place. A missing path is skipped, a link is recreated."""
    source = f"/host{path}"
    if os.path.islink(source):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(os.readlink(source), path)
    elif os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif os.path.exists(source):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).touch()
    if not os.path.islink(source) and os.path.exists(source):
        _mount(source, path, None, MS_BIND | MS_REC)
        _set_attributes(path, attributes, recursive=True)


def _without_nested(paths: list[str]) -> list[str]:
    """Return the paths that are not below another one, each once."""
    outermost: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{above}/") for above in outermost):
            outermost.append(path)
    return outermost


def raise_loopback() -> None:
    """Bring up the loopback device of this network namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def limit(limits: dict[str, int]) -> None:
    """Set resource limits for this process and its children, never above those in force. They are the first to be killed when memory runs out."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (lowest, lowest))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def without_privileges(wanted: dict[str, Any], command: list[str]) -> list[str]:
    """Return the command with a prefix that changes the account, drops all capabilities for good, and ends it with its parent."""
    change: list[str] = []
    if wanted["uid"] is not None:
        change = [f"--reuid={wanted['uid']}", f"--regid={wanted['gid']}", "--clear-groups", "--bounding-set=-all"]
    dropped = ["--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--pdeathsig=KILL"]
    return ["setpriv", *change, *dropped, "--", *command]


def run_module(wanted: dict[str, Any]) -> int:
    """Give up all privileges and run the module's `main()`. Return its exit code."""
    try:
        privileges.drop(wanted["uid"], wanted["gid"])
    except OSError as error:
        print(f"cannot give up privileges in a cell: {error}", file=sys.stderr)
        return 70
    code: int = importlib.import_module(wanted["module"]).main()
    return code


def run_as_init(command: list[str], bounds: dict[str, Any]) -> int:
    """Run a command to its end and reap orphans. Return its exit code; 1, with a line on stderr, if it exceeded its bounds."""
    child = subprocess.Popen([*LOW_PRIORITY, *command])  # without the open descriptors of this process
    watch = BoundsWatch(bounds)
    watch.start()
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            watch.stop()
            if watch.exceeded:
                print(watch.exceeded, file=sys.stderr)
                return 1
            return os.waitstatus_to_exitcode(status) & 0xFF


class _Attributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("spread", ctypes.c_uint64),
        ("users", ctypes.c_uint64),
    )


def _set_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    value = _Attributes(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(value))
    _call(
        f"mount_setattr {path}",
        _libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(value), size),
    )


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    data = options.encode() if options else None
    _call(
        f"mount {target}", _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, data)
    )


def _call(what: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def main() -> int:
    """Build the cell, then become the command, or run it as its init process."""
    wanted, command = json.loads(sys.argv[1]), sys.argv[2:]
    try:
        build(wanted)
        limit(wanted["limits"])
    except (OSError, KeyError) as error:
        print(f"cannot build a cell: {error}", file=sys.stderr)
        return 70
    if wanted["module"]:
        return run_module(wanted)
    words = without_privileges(wanted, command)
    if not wanted["init"]:
        os.execvp(words[0], words)
    return run_as_init(words, wanted["bounds"])


if __name__ == "__main__":
    sys.exit(main())
