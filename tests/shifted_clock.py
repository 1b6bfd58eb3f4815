"""A wall clock that a test sets: a library which is loaded before the C library adds the seconds in a file to the real time."""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
SECONDS = struct.Struct("q")


def has_compiler() -> bool:
    """Return whether this machine has a C compiler (tests/compiler.sh installs one)."""
    return shutil.which("cc") is not None


def build(library: Path, offset: Path, *, read_from: Path | None = None, seconds: int = 0) -> None:
    """Compile the library and create the file with the seconds. `read_from`: the path of the file for the programs, if it is another one."""
    options = ["-O2", "-shared", "-fPIC", f'-DCLOCK_FILE="{read_from or offset}"']
    subprocess.run(["cc", *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    offset.write_bytes(SECONDS.pack(seconds))
