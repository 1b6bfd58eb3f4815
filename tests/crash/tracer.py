"""Run a program under ptrace, name each of its state-changing system calls, and kill it (SIGKILL) when it enters a chosen one.

usage: tracer.py --log FILE [--kill JSON | --kill-at N] [--whom one|all|power:VARIANT:SEED|errno:NUMBER:once|lasting] [--top FOLDER] -- COMMAND...

A seccomp filter stops the program only at these calls, so that the rest runs at full speed. x86-64 Linux only.
Each call is a JSON object in a line of the log. It is named by the last mark (see marked.py), its caller (the thread that marks, another thread, a
helper in Python, or the name of another program), its own name, and its number among calls of the same name. `--kill` takes such a name; if the step
makes fewer such calls this time, it means the first call after the step. The call at which the program is killed is not executed.
`--whom power:…` kills all processes and cuts the power: what was not synced below FOLDER is lost (see power.py).
`--whom errno:…` kills no process: the call fails with that error, as on a full or broken disk, once or with all later ones.

Numbers of system calls and of ptrace requests: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/linux/{ptrace,seccomp,filter}.h of Linux.
"""

import argparse
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from power import Disk

MARK_DESCRIPTOR = 198
"""The bytes of a write to this (closed) descriptor are a mark."""
ANY = "any"
"""The mark of other threads: the schedule and the watcher depend on time, not on steps."""
WRITE, OPEN, OPENAT = 1, 2, 257
CALLS = {
    18: "pwrite64", 59: "execve", 62: "kill", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate", 82: "rename",
    83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink", 90: "chmod", 91: "fchmod", 92: "chown",
    93: "fchown", 94: "lchown", 258: "mkdirat", 260: "fchownat", 263: "unlinkat", 264: "renameat", 265: "linkat",
    266: "symlinkat", 268: "fchmodat", 162: "sync", 306: "syncfs", 316: "renameat2", 322: "execveat", 326: "copy_file_range", 424: "pidfd_send_signal",
}  # fmt: skip
BY_DESCRIPTOR = {"pwrite64", "fsync", "fdatasync", "ftruncate", "fchmod", "fchown", "syncfs"}
FAILING = {"pwrite64", "open", "mkdir", "mkdirat", "rename", "link", "symlink", "fsync", "fdatasync", "ftruncate"}
"""Calls that a disk can make fail."""
SECOND_PATH = {"rename", "link", "symlink"}
PAGE = "pwrite64"
"""Writes of database pages, which are too many to be counted by `--kill-at`."""
O_CREAT = 0o100
GO_SECONDS = 30.0

GET_REGISTERS, SET_REGISTERS, RAX, ORIG_RAX = 12, 13, 10, 15
SEIZE, CONT, LISTEN, GET_EVENT, GET_SYSCALL = 0x4206, 7, 0x4208, 0x4201, 0x420E
FOLLOW = (
    1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 20
)  # fork, vfork, clone, exec, seccomp; killed with the tracer
EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 4, 7, 128
STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
WALL = 0x40000000
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER_MODE = 38, 22, 2

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass(frozen=True)
class Point:
    """A call at a moment of a run."""

    mark: str
    who: str
    call: str
    number: int


def filter_program() -> bytes:
    """Return a BPF program that stops at calls that change state and passes all others."""

    def line(code: int, true: int, false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06
    trace, allow = 0x7FF00000, 0x7FFF0000
    number, first, second, third = 0, 16, 24, 32  # offsets into struct seccomp_data
    program = [line(load, 0, 0, number)]
    for call in CALLS:
        program += [line(equal, 0, 1, call), line(give, 0, 0, trace)]
    for call, offset, test, value in (
        (OPEN, second, bits, O_CREAT),
        (OPENAT, third, bits, O_CREAT),
        (WRITE, first, equal, MARK_DESCRIPTOR),
    ):
        program += [line(equal, 0, 3, call), line(load, 0, 0, offset), line(test, 0, 1, value), line(give, 0, 0, trace)]
        program += [line(load, 0, 0, number)]
    return b"".join([*program, line(give, 0, 0, allow)])


def install_filter() -> None:
    """Install the filter for this process and its future children."""
    program = filter_program()
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER_MODE, ctypes.c_char_p(head), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def request(what: int, pid: int, address: int = 0, data: Any = 0) -> int:
    """Send a ptrace request. Raise ProcessLookupError if the process is gone."""
    answer = int(libc.ptrace(what, pid, address, data))
    if answer == -1:
        raise ProcessLookupError(ctypes.get_errno(), f"ptrace {what:#x} of {pid}")
    return answer


class Tracer:
    """Trace a program and all its children."""

    def __init__(self, log: TextIO, target: Point | int | None, whom: str, disk: Disk | None = None) -> None:
        self.log = log
        self.target = target
        self.whom = whom
        self.disk = disk
        self.killed: Point | None = None
        self.failing = 0
        self.go: Path | None = None
        self.mark = "start"
        self.passed: set[str] = set()
        self.marker = 0
        self.root = 0
        self.total = 0
        self.live: set[int] = set()
        self.counted: Counter[tuple[str, str, str]] = Counter()
        self.names: dict[int, str] = {}

    def run(self, command: list[str]) -> int:
        """Start the command, trace it until its last process has ended, and return its exit status."""
        here, there = os.pipe()
        self.root = os.fork()
        if self.root == 0:
            os.close(there)
            os.read(here, 1)
            os.close(here)
            install_filter()
            os.execvp(command[0], command)
        os.close(here)
        request(SEIZE, self.root, 0, FOLLOW)
        os.write(there, b"x")
        os.close(there)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, frame: os.kill(self.root, received))
        return self.follow()

    def follow(self) -> int:
        """Handle stops until no process is left."""
        code = 0
        while True:
            try:
                pid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                if self.disk is not None and self.killed is not None:
                    self.cut_power(self.disk)
                return code
            if not os.WIFSTOPPED(status):
                self.live.discard(pid)
                if pid == self.root:
                    code = os.waitstatus_to_exitcode(status)
                continue
            self.live.add(pid)
            with suppress(ProcessLookupError):
                self.serve(pid, os.WSTOPSIG(status), status >> 16)

    def serve(self, pid: int, number: int, event: int) -> None:
        """Handle a stop and continue the process."""
        if event == EVENT_SECCOMP:
            self.look(pid)
        elif event == EVENT_EXEC:
            self.names.pop(pid, None)
        if event == EVENT_STOP and number in STOPPING:
            request(LISTEN, pid)
        else:
            request(CONT, pid, 0, 0 if event else number)

    def look(self, pid: int) -> None:
        """Record the call that a process is about to make, and kill at the chosen one."""
        info = ctypes.create_string_buffer(96)
        request(GET_SYSCALL, pid, len(info), ctypes.addressof(info))
        number, *arguments = struct.unpack_from("7Q", info.raw, 24)
        if number == WRITE:
            self.passed.add(self.mark)
            self.mark = os.pread(
                memory := os.open(f"/proc/{pid}/mem", os.O_RDONLY), arguments[2], arguments[1]
            ).decode()
            os.close(memory)
            self.marker = pid
            return
        call = CALLS.get(number, "open")
        who = self.who(pid)
        about = self.about(pid, call, number, arguments)
        if call == "execve" and not os.path.exists(about):
            return  # a lookup along PATH
        mark = ANY if who == "thread" else self.mark
        self.counted[mark, who, call] += 1
        self.total += call != PAGE
        point = Point(mark, who, call, self.counted[mark, who, call])
        print(json.dumps({**asdict(point), "about": about, "pid": pid}), file=self.log, flush=True)
        ours = who in ("worker", "thread", "helper") and call in FAILING
        if self.whom.startswith("errno:"):
            if self.failing and ours:
                self.fail(pid, self.failing)
            elif ours and (self.target in (point, self.total) or self.too_late(mark)):
                _, number_of_error, how = self.whom.split(":")
                self.target = None
                self.failing = int(number_of_error) if how == "lasting" else 0
                self.fail(pid, int(number_of_error))
                print(json.dumps({"failed": asdict(point)}), file=self.log, flush=True)
        elif self.target in (point, self.total) or self.too_late(mark):
            self.target, self.killed = None, point
            for victim in {self.root} if self.whom == "one" else self.live:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            if self.disk is None:
                self.tell_killed()
        elif self.disk is not None and self.killed is None:
            self.disk.before(pid, number, arguments)

    def fail(self, pid: int, number_of_error: int) -> None:
        """Make a call fail instead of executing it."""
        registers = ctypes.create_string_buffer(27 * 8)
        request(GET_REGISTERS, pid, 0, ctypes.addressof(registers))
        struct.pack_into("q", registers, ORIG_RAX * 8, -1)
        struct.pack_into("q", registers, RAX * 8, -number_of_error)
        request(SET_REGISTERS, pid, 0, ctypes.addressof(registers))

    def cut_power(self, disk: Disk) -> None:
        """Lose unsynced data once no other process writes there."""
        print('{"dead": true}', file=self.log, flush=True)
        deadline = time.monotonic() + GO_SECONDS
        while self.go is not None and not self.go.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(json.dumps({"lost": disk.cut()}), file=self.log, flush=True)
        self.tell_killed()

    def tell_killed(self) -> None:
        """Log that the kill was done."""
        assert self.killed is not None
        print(json.dumps({"killed": asdict(self.killed)}), file=self.log, flush=True)

    def too_late(self, mark: str) -> bool:
        """Return whether the step of the chosen call is over."""
        return (
            isinstance(self.target, Point) and self.target.mark in self.passed and mark not in (ANY, self.target.mark)
        )

    def who(self, pid: int) -> str:
        """Return the caller: worker, thread, helper, or the name of another program."""
        if pid == self.marker:
            return "worker"
        if pid not in self.names:
            with suppress(OSError):
                group = next(
                    line.split()[1]
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                    if line.startswith("Tgid:")
                )
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                ours = program.startswith("python")
                self.names[pid] = "thread" if int(group) == self.root else "helper" if ours else program
        return self.names.get(pid, "gone")

    def about(self, pid: int, call: str, number: int, arguments: list[int]) -> str:
        """Return the path of a call for the log, if it is known."""
        with suppress(OSError, ValueError):
            if call in BY_DESCRIPTOR:
                return os.readlink(f"/proc/{pid}/fd/{arguments[0]}")
            if call in ("kill", "pidfd_send_signal", "copy_file_range"):
                return " ".join(str(argument) for argument in arguments[:2])
            at = number == OPENAT or number >= 258
            index = arguments[1 if at else 0] if call not in SECOND_PATH else arguments[1]
            memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
            try:
                return os.pread(memory, 512, index).split(b"\0")[0].decode(errors="replace")
            finally:
                os.close(memory)
        return ""


def main() -> int:
    """Parse the arguments and trace the command."""
    if platform.machine() != "x86_64":
        raise SystemExit("tracer: numbers of system calls are known for x86-64 alone")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True)
    parser.add_argument("--kill", help="a point, as the log has it")
    parser.add_argument("--kill-at", type=int, help="the so manieth call that writes no page")
    parser.add_argument("--whom", default="all")
    parser.add_argument("--top", type=Path, default=Path("/nowhere"))
    parser.add_argument("--go", type=Path, help="before the power is cut, this file is waited for")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    target: Point | int | None = given.kill_at
    if given.kill:
        fields = json.loads(given.kill)
        target = Point(fields["mark"], fields["who"], fields["call"], fields["number"])
    disk = None
    if given.whom.startswith("power:"):
        _, variant, seed = given.whom.split(":")
        disk = Disk(given.top, variant, int(seed))
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with open(given.log, "a") as log:
        tracer = Tracer(log, target, given.whom, disk)
        tracer.go = given.go
        return abs(tracer.run(given.command))


if __name__ == "__main__":
    sys.exit(main())
