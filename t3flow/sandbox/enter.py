"""usage: python -m t3flow.sandbox.enter COMMAND [ARGUMENT...]: runs a command as nobody in particular, in a network of its own.

Where the host allows it the command gets a network namespace with nothing but a loopback device, so that servers in it may bind 0.0.0.0 and
reach nobody. Called by root it becomes the account `nobody`: nothing from a registry is run as root, a sandbox's either.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import t3flow

LOOPBACK = "t3flow.sandbox.loopback"
INSIDE = "T3FLOW_SANDBOX_INSIDE"
NOBODY = 65534
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def is_inside() -> bool:
    """Whether this process is in a sandbox already."""
    return INSIDE in os.environ


def enter(command: list[str]) -> None:
    """Becomes the command, inside. Returns only if this process is inside already. What could not be had is said on stderr."""
    if is_inside():
        return
    environment = {**os.environ, INSIDE: "1"}
    if os.geteuid() == 0:
        open_to_nobody()
        change = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "--no-new-privs",
            "--inh-caps=-all",
            "--",
        ]
        namespaces = ["unshare", "--net", "--"]
    else:
        change = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--"]
        namespaces = ["unshare", "--user", "--map-current-user", "--keep-caps", "--net", "--"]
    words = [*namespaces, sys.executable, "-I", "-m", LOOPBACK, *change]
    if not _works(words):
        print(
            "sandbox: this host gives no network namespace; servers bind the loopback device instead", file=sys.stderr
        )
        environment[INSIDE] = "loopback"
        words = change if os.geteuid() == 0 else []
    words += command
    os.execvpe(words[0], words, environment)


def has_own_network() -> bool:
    """Whether this process is in a network namespace that the sandbox made."""
    return os.environ.get(INSIDE) == "1"


def _works(words: list[str]) -> bool:
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0


def open_to_nobody() -> None:
    """Where the program lies below a folder that only root may enter (/root, say), shows just the program there, to this process alone."""
    needed = {Path(sys.prefix), Path(sys.base_prefix), Path(t3flow.__file__).parent.parent, Path.cwd()}
    blocked = {
        next((part for part in reversed(path.parents) if not part.stat().st_mode & 0o001), None) for path in needed
    }
    tops = {top for top in blocked if top is not None}
    if not tops:
        return
    if _libc.unshare(0x20000) != 0:  # CLONE_NEWNS
        print(
            "sandbox: the program cannot be shown to the account nobody; put it where everybody may read",
            file=sys.stderr,
        )
        return
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    for top in tops:
        below = sorted(path for path in needed if path.is_relative_to(top))
        opened = [(path, os.open(path, os.O_PATH)) for path in below]
        _mount("tmpfs", str(top), "tmpfs", 0)
        for path, descriptor in opened:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{descriptor}", str(path), None, MS_BIND | MS_REC)
            os.close(descriptor)
    os.chdir(Path.cwd())


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    if (
        _libc.mount(
            source.encode(), target.encode(), kind.encode() if kind else None, flags, b"mode=755" if kind else None
        )
        != 0
    ):
        code = ctypes.get_errno()
        raise OSError(code, f"mount on {target}: {os.strerror(code)}")


if __name__ == "__main__":
    enter(sys.argv[1:])
    os.execvp(sys.argv[1], sys.argv[1:])
