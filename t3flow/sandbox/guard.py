"""usage: python -m t3flow.sandbox.guard COMMAND [ARGUMENT...]: runs a command so that everything that it starts ends with it, however it ends.

The command has a PID namespace of its own.

Three processes: the one that the caller started waits and passes signals on, the first of the namespace reaps orphans, and the second is the command.
If any of them ends or is killed, even with SIGKILL, the first of the namespace ends too, and the kernel then kills all that is left in the namespace.
"""

import ctypes
import os
import select
import signal
import sys
import threading
from typing import NoReturn

from t3flow.sandbox.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
SI_KERNEL = 0x80
"""The origin of a signal from a terminal, which the command gets anyway."""
CLONE_NEWPID, PR_SET_PDEATHSIG = 0x20000000, 1
_libc = ctypes.CDLL(None, use_errno=True)


def ending_with_this_process() -> list[str]:
    """Return the prefix of a command that is to be killed when this process ends, however it ends.

    The kernel does so when the thread that started it ends: in a thread that may end earlier, return no prefix.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--"] if threading.current_thread() is threading.main_thread() else []


def run(command: list[str]) -> NoReturn:
    """Run the command in a new PID namespace and exit with its status, or with 128 + N after signal N.

    Needs CAP_SYS_ADMIN and a mount namespace of its own, for the namespace's own /proc. Raise OSError if the host does not allow it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
    if _libc.unshare(CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "no PID namespace")
    is_alive, held = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(held)
        _be_first(command, is_alive)
    os._exit(_status(first))


def _be_first(command: list[str], is_alive: int) -> NoReturn:
    """Be the first process of the namespace. `is_alive` is a pipe that closes when the process outside ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if select.select([is_alive], [], [], 0)[0]:  # it was killed before the line above
        os._exit(128 + signal.SIGKILL)
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        os.write(2, f"guard: {error}\n".encode())
        os._exit(1)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON | {signal.SIGCHLD})
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127)
    os._exit(_status(child))


def _status(child: int) -> int:
    """Pass signals on to a child and reap all others, until it ends. Return its exit status as a shell does."""
    while True:
        number, status = os.waitpid(-1, os.WNOHANG)
        if number == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if number != 0:
            continue
        received = signal.sigwaitinfo(PASSED_ON | {signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD and received.si_code != SI_KERNEL:
            os.kill(child, received.si_signo)


if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except OSError as error:
        sys.exit(f"guard: {error}")
