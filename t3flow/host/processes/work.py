"""What is at work in a unit: agents, shells at their prompt, and other processes."""

from collections.abc import Collection
from pathlib import Path

from t3flow.host.processes.proc import (
    SHELLS,
    ancestors,
    command_line,
    is_alive,
    is_interpreter,
    name_of,
    program_of,
    stat_of,
)
from t3flow.t3.commands import SERVE
from t3flow.t3.processes import package_of


def is_agent(words: list[str], comm: str, agents: Collection[str]) -> bool:
    """Return whether a process is a coding agent, by its name or by the script that an interpreter runs."""
    names = {comm, Path(words[0]).name} if words else {comm}
    if len(words) > 1 and is_interpreter(words[0]):
        names.add(Path(words[1]).name)
    return bool(names & set(agents))


def is_shell_at_prompt(pid: int, parents: Collection[int]) -> bool:
    """Return whether a process is an interactive shell waiting for input: in the foreground of a terminal, without a script and without children."""
    words, stat = command_line(pid), stat_of(pid)
    if stat is None or Path((words or [""])[0].lstrip("-") or name_of(pid)).name not in SHELLS:
        return False
    if any(not word.startswith("-") for word in words[1:]):
        return False
    if any(word.startswith("-") and not word.startswith("--") and "c" in word for word in words[1:]):
        return False
    return stat.state == "S" and stat.terminal != 0 and stat.group == stat.foreground and pid not in parents


def programs_of_server(server: int, pids: Collection[int], slot: str) -> tuple[str, ...]:
    """Return the folders whose programs belong to the server: the slot, and the npm packages that the server and its launcher run from.

    Of a global install only the server's own package counts, since other programs share its folder.
    """
    chain = [server, *(pid for pid in ancestors(server, pids) if SERVE[0] in command_line(pid))]
    packages = {package_of(program_of(pid)) for pid in chain}
    return tuple(f"{folder.rstrip('/')}/" for folder in {*packages, slot} if folder)


def processes_at_work(
    server: int, pids: Collection[int], programs: tuple[str, ...], agents: Collection[str]
) -> tuple[list[str], list[str]]:
    """Given all pids of a unit, return the work that a stop would end: (agents, other processes), each as `NAME (pid N)`.

    The server, its ancestors, its own programs and shells at their prompt do not count as work.
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
        elif is_alive(pid) and not is_shell_at_prompt(pid, parents):
            others.append(label)
    return found_agents, others
