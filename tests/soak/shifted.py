"""A wall clock of its own for a sandbox: all programs in a mount namespace see the real time plus an offset, which can change at any moment.

An overlay on /etc names a small library in `ld.so.preload`, so that also programs with a clean environment and those in cells see the offset.
In the same namespace, most folders of t3flow are on a small disk of their own, which the soak fills.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import shifted_clock
from shifted_clock import SECONDS

OFFSET = Path("/etc/t3soak.offset")
LIBRARY = Path("/etc/t3soak.so")
INSIDE = "T3SOAK_INSIDE"
NAMESPACES = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--"]
WITHOUT_RIGHTS = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--"]
DISK_FOLDERS = ("state", "backups", "opt")
MS_BIND = 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """Return why this machine cannot have a clock of its own, or ""."""
    if not shifted_clock.has_compiler():
        return "there is no C compiler (cc)"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0:
        return "this host lets no ordinary account mount a file system"
    return ""


def enter(top: Path, disk_bytes: int, command: list[str]) -> None:
    """Execute a command without rights in the namespace. `top` becomes the folder of the sandbox. Return only if this process is already inside."""
    if os.environ.get(INSIDE) == str(top):
        return
    os.execvpe(
        NAMESPACES[0],
        [*NAMESPACES, sys.executable, __file__, str(top), str(disk_bytes), *command],
        {**os.environ, INSIDE: str(top)},
    )


class Clock:
    """The offset of the wall clock, in seconds."""

    def __init__(self) -> None:
        with OFFSET.open("rb") as file:
            (self.seconds,) = SECONDS.unpack(file.read(SECONDS.size))

    def advance(self, seconds: float) -> None:
        """Move the wall clock of every program in the namespace at once."""
        self.seconds += int(seconds)
        with OFFSET.open("r+b") as file:  # eight bytes in one write: no reader sees half of them
            file.write(SECONDS.pack(self.seconds))


def _prepare(top: Path, disk_bytes: int) -> None:
    """Mount the overlay on /etc and the small disk."""
    etc = top / "etc.shifted"
    etc.mkdir(parents=True)
    _mount("tmpfs", etc, "tmpfs", "mode=755")
    for name in ("upper", "work"):
        (etc / name).mkdir()
    upper = etc / "upper"
    shifted_clock.build(upper / LIBRARY.name, upper / OFFSET.name, read_from=OFFSET)
    (upper / "ld.so.preload").write_text(f"{LIBRARY}\n")
    _mount("overlay", Path("/etc"), "overlay", f"lowerdir=/etc,upperdir={upper},workdir={etc / 'work'}")
    disk = top / "disk"
    disk.mkdir()
    _mount("tmpfs", disk, "tmpfs", f"mode=755,size={disk_bytes}")
    for name in DISK_FOLDERS:
        (disk / name).mkdir()
        (top / name).mkdir()
        _mount(str(disk / name), top / name, "none", "", MS_BIND)


def _mount(source: str, target: Path, kind: str, data: str, flags: int = 0) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount on {target}: {os.strerror(code)}")


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]), int(sys.argv[2]))
    os.execvp(WITHOUT_RIGHTS[0], [*WITHOUT_RIGHTS, *sys.argv[3:]])
