"""usage: python -m t3flow.sandbox.enter [--memory] COMMAND [ARGUMENT...]: runs a command without privileges in its own network namespace.

If the host allows it, the namespace has only a loopback device, so that servers can bind 0.0.0.0 and are unreachable from outside.
Root becomes the account `nobody`: code from a registry never runs as root, not even from the sandbox's registry.

Everything that the command starts ends with it, also when it is killed (`guard.py`).

With --memory, the command gets its own /tmp in memory: a test suite does not wait for the disk, and leaves no files when it is killed.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import t3flow
from t3flow.sandbox.mounts import MS_BIND, MS_PRIVATE, MS_REC, TMP, mount

LOOPBACK = "t3flow.sandbox.loopback"
INSIDE = "T3FLOW_SANDBOX_INSIDE"
NOBODY = 65534
MEMORY, GUARD = "--memory", "--guard"
MEMORY_BYTES = 4 * 1024**3
"""Free memory that a /tmp in memory needs."""
_libc = ctypes.CDLL(None, use_errno=True)


def is_inside() -> bool:
    """Return whether this process is already in a sandbox."""
    return INSIDE in os.environ


def enter(command: list[str], *, memory: bool = False) -> None:
    """Execute the command in the sandbox. Return only if this process is already inside. Report a missing namespace on stderr.

    `memory`: mount a file system in memory over /tmp, unless the program is below /tmp or memory is short.
    """
    if is_inside():
        return
    environment = {**os.environ, INSIDE: "1"}
    if os.geteuid() == 0:
        mount_for_nobody()
        change = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "--no-new-privs",
            "--inh-caps=-all",
            "--",
        ]
        namespaces = ["unshare", "--net"]
    else:
        change = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--"]
        namespaces = ["unshare", "--user", "--map-current-user", "--keep-caps", "--net"]
    prepare = [sys.executable, "-I", "-m", LOOPBACK]
    with_mounts = [*namespaces, "--mount", "--", *prepare]
    choices = [[*with_mounts, MEMORY, GUARD, *change]] * (memory and memory_fits())
    choices += [[*with_mounts, GUARD, *change], [*namespaces, "--", *prepare, *change]]
    words = next((words for words in choices if _succeeds(words)), [])
    if not words:
        print("sandbox: this host allows no network namespace, so servers bind 127.0.0.1", file=sys.stderr)
        environment[INSIDE] = "loopback"
        words = change if os.geteuid() == 0 else []
    if GUARD not in words:
        print(
            "sandbox: this host allows no PID namespace, so a command that is killed may leave processes",
            file=sys.stderr,
        )
    words += command
    os.execvpe(words[0], words, environment)


def has_own_network() -> bool:
    """Return whether this process is in a network namespace of the sandbox."""
    return os.environ.get(INSIDE) == "1"


def memory_fits() -> bool:
    """Return whether /tmp can be in memory: enough is free, and the program is not below /tmp."""
    needed = (sys.prefix, sys.base_prefix, t3flow.__file__, Path.cwd())
    if any(Path(path).resolve().is_relative_to(TMP) for path in needed):
        return False
    with suppress(OSError), open("/proc/meminfo") as lines:
        free = dict(line.split()[:2] for line in lines).get("MemAvailable:", "0")
        return int(free) * 1024 >= MEMORY_BYTES
    return False


def _succeeds(words: list[str]) -> bool:
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0


def mount_for_nobody() -> None:
    """If the program is below a folder that only root can enter (such as /root), mount a view with only the program, for this process alone."""
    needed = {Path(sys.prefix), Path(sys.base_prefix), Path(t3flow.__file__).parent.parent, Path.cwd()}
    blocked = {
        next((part for part in reversed(path.parents) if not part.stat().st_mode & 0o001), None) for path in needed
    }
    tops = {top for top in blocked if top is not None}
    if not tops:
        return
    if _libc.unshare(0x20000) != 0:  # CLONE_NEWNS
        print(
            "sandbox: the account nobody cannot read the program; move it to a folder that all accounts can read",
            file=sys.stderr,
        )
        return
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    for top in tops:
        below = sorted(path for path in needed if path.is_relative_to(top))
        opened = [(path, os.open(path, os.O_PATH)) for path in below]
        mount("tmpfs", str(top), "tmpfs", 0, "mode=755")
        for path, descriptor in opened:
            path.mkdir(parents=True, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", str(path), None, MS_BIND | MS_REC)
            os.close(descriptor)
    os.chdir(Path.cwd())


def main() -> None:
    """Execute the given command in the sandbox."""
    memory = sys.argv[1:2] == [MEMORY]
    command = sys.argv[2:] if memory else sys.argv[1:]
    enter(command, memory=memory)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
