"""What /proc says of processes: what they run, how old they are, which of them are at work. Only the kernel's word, nothing of a home's."""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from t3flow.t3.commands import SERVE
from t3flow.t3.processes import package_of

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "tcsh", "csh", "nu", "elvish"}
INTERPRETERS = {*SHELLS, "node", "nodejs", "bun", "deno", "python", "env"}
"""Programs that say nothing of what runs: the script that they were given does."""
DELETED = " (deleted)"
LAUNCHED_SECONDS = 30.0
"""By then a launcher has become the server that it leads to, or has started it."""


class Stat(NamedTuple):
    """What /proc/PID/stat says. `terminal` is 0 without a controlling terminal; `started` is in ticks since the boot."""

    state: str
    parent: int
    group: int
    session: int
    terminal: int
    foreground: int
    started: int


def stat_of(pid: int) -> Stat | None:
    """Return the kernel's line about a process, or None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Stat(fields[0], *(int(fields[at]) for at in (1, 2, 3, 4, 5, 19)))
    except (OSError, IndexError):
        return None


def age_seconds(pid: int) -> float | None:
    """Return how long a process has lived by the monotonic clock, which no clock step moves; None when it is gone."""
    found = stat_of(pid)
    if found is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / os.sysconf("SC_CLK_TCK")


def is_launched(pid: int) -> bool:
    """Whether a process is so old that a launcher would have become the server that it leads to, or have started it."""
    return (age_seconds(pid) or 0.0) > LAUNCHED_SECONDS


def is_there(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    found = stat_of(pid)
    return found is not None and found.state not in "ZX"


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def variable(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was started with; None without it, or where that cannot be seen."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(f"{name}=".encode()):
                return entry.partition(b"=")[2].decode(errors="replace")
    return None


def name_of(pid: int) -> str:
    """Return the name of a process, which it may have chosen itself, in printable letters."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/comm").read_text(errors="replace").removesuffix("\n")
        return "".join(letter if letter.isprintable() else "?" for letter in text)
    return "?"


def executable(pid: int) -> str:
    """Return the path of the file that a process executes; "" when that cannot be seen."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").removesuffix(DELETED)
    return ""


def program_of(pid: int) -> str:
    """Return the path of what a process runs: its executable, or the script that an interpreter was given; "" for a relative or hidden one.

    An option before the script that takes a word of its own hides it: the process then counts as unknown, not as the server's.
    """
    path = executable(pid)
    if not _is_interpreter(path):
        return path
    script = next((word for word in command_line(pid)[1:] if not word.startswith("-")), "")
    return script if script.startswith("/") and "/../" not in script else ""


def _is_interpreter(path: str) -> bool:
    """Whether a program runs scripts, by its name: `python3.12` and `node22` too."""
    return re.sub(r"[\d.]+$", "", Path(path).name) in INTERPRETERS


def ancestors(pid: int, among: Collection[int]) -> list[int]:
    """Return the parents of a process as far as they are among others, nearest first."""
    found: list[int] = []
    while (stat := stat_of(found[-1] if found else pid)) is not None and stat.parent in among:
        if stat.parent in found:
            break
        found.append(stat.parent)
    return found


def is_agent(words: list[str], comm: str, agents: Collection[str]) -> bool:
    """Whether a process is a coding agent: by its name, or as the script that an interpreter runs."""
    names = {comm, Path(words[0]).name} if words else {comm}
    if len(words) > 1 and _is_interpreter(words[0]):
        names.add(Path(words[1]).name)
    return bool(names & set(agents))


def is_shell_at_prompt(pid: int, parents: Collection[int]) -> bool:
    """Whether it is an interactive shell that waits: on a terminal, in its foreground, not among the `parents` of others and with no script."""
    words, stat = command_line(pid), stat_of(pid)
    if stat is None or Path((words or [""])[0].lstrip("-") or name_of(pid)).name not in SHELLS:
        return False
    if any(not word.startswith("-") for word in words[1:]):
        return False
    if any(word.startswith("-") and not word.startswith("--") and "c" in word for word in words[1:]):
        return False
    return stat.state == "S" and stat.terminal != 0 and stat.group == stat.foreground and pid not in parents


def programs_of_server(server: int, pids: Collection[int], slot: str) -> tuple[str, ...]:
    """Return the folders whose programs belong to a server and are no work: the slot, and the npm packages that it and its launcher run from.

    A global install shares its folder with other people's programs: of that only the server's own package counts.
    """
    chain = [server, *(pid for pid in ancestors(server, pids) if SERVE[0] in command_line(pid))]
    packages = {package_of(program_of(pid)) for pid in chain}
    return tuple(f"{folder.rstrip('/')}/" for folder in {*packages, slot} if folder)


def at_work(
    server: int, pids: Collection[int], programs: tuple[str, ...], agents: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return what a server's stop would end with it, as (agents, others that are at work): each as `NAME (pid N)`.

    Given all processes of a unit. The server, what it was started by and its own programs are no work, nor are shells at their prompt.
    """
    found_agents, others = [], []
    stats = {pid: stat for pid in pids if (stat := stat_of(pid)) is not None and stat.state not in "ZX"}
    parents = {stat.parent for stat in stats.values()}
    own = {server, *ancestors(server, pids)}
    for pid in stats:
        if pid in own or (programs and program_of(pid).startswith(programs)):
            continue
        label = f"{name_of(pid)} (pid {pid})"
        if is_agent(command_line(pid), name_of(pid), agents):
            found_agents.append(label)
        elif is_there(pid) and not is_shell_at_prompt(pid, parents):
            others.append(label)
    return found_agents, others


def opened(pid: int) -> Iterator[str]:
    """Return the paths of the files that a process has open, by the kernel's names for them: no file is touched. Sockets are `socket:[INODE]`."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(DELETED)


def works_on(pid: int, is_meant: Callable[[str], bool]) -> bool:
    """Return whether a process can read or write a file that `is_meant` picks by its path: a descriptor of the mere name (O_PATH) cannot."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if is_meant(os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(DELETED)):
                    flags = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().partition("flags:")[2].split()[0]
                    if not int(flags, 8) & os.O_PATH:
                        return True
    return False


def of_account(uid: int) -> list[int]:
    """Return the processes of an account, but for this one. Looks at no more of the others than whose they are."""
    return by_account().get(uid, [])


def by_account() -> dict[int, list[int]]:
    """Return the processes of each account, but for this one: uid → pids. One walk of /proc, to be shared by all who ask for several accounts."""
    found: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    found.setdefault(entry.stat(follow_symlinks=False).st_uid, []).append(int(entry.name))
    return found


def in_containers(pids: Collection[int]) -> list[int]:
    """Return those processes that are in a container of somebody else's: in a namespace of processes below ours, with our own one of accounts.

    None that this process has made, as cells are; nor those of an account that made namespaces for itself, which come with one of accounts.
    """
    spaces, accounts = _namespaces(os.getpid())
    return [
        pid
        for pid in pids
        if (found := _namespaces(pid))[0] > spaces and found[1] == accounts
        if is_there(pid) and not _is_below(pid, os.getpid())
    ]


def _namespaces(pid: int) -> tuple[int, str]:
    """How many namespaces of processes a process is in, from here, and its map of accounts; (0, "") when it is gone."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        return len(numbers), Path(f"/proc/{pid}/uid_map").read_text()
    return 0, ""


def _is_below(pid: int, ancestor: int) -> bool:
    while (stat := stat_of(pid)) is not None and stat.parent:
        if stat.parent == ancestor:
            return True
        pid = stat.parent
    return False


class SharedWalk:
    """The processes of each account, walked at most once in `seconds` whoever asks: for looks that are made for one user after another.

    A process that has just begun may be missing for so long. Safe from several threads: at worst two of them walk.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: tuple[float, dict[int, list[int]]] | None = None

    def by_account(self) -> dict[int, list[int]]:
        """Return uid → pids."""
        last = self._last
        if last is None or time.monotonic() - last[0] > self._seconds:
            last = self._last = (time.monotonic(), by_account())
        return last[1]


def session_of(pid: int) -> list[int]:
    """Return a process, the others of its session, and all below them. Looks at every process of the host: for the sandbox."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := stat_of(int(name)))}
    found = [each for each, stat in stats.items() if stat.session == pid or each == pid]
    for parent in found:  # grows while it is read
        found += [each for each, stat in stats.items() if stat.parent == parent and each not in found]
    return [each for each in found if stats[each].state not in "ZX"]


def all_others() -> list[int]:
    """Return every process of the host but this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def using(matches: Callable[[list[str]], bool]) -> list[int]:
    """Return the processes whose command line `matches`. This one is left out."""
    return [pid for pid in all_others() if matches(command_line(pid))]


def is_stopped(pid: int) -> bool:
    """Return whether each thread of a process has stopped: one that still runs could still write."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if (task / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "TtZX":
                    return False
        return True
    return False


def uid_of(pid: int) -> int | None:
    """Whose process it is; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None


def described(pids: Iterable[int]) -> str:
    """Return processes for people, as `node (pid 7), bash (pid 8)`."""
    return ", ".join(f"{name_of(pid)} (pid {pid})" for pid in pids)
