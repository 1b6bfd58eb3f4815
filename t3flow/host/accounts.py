"""Which account does what. As root every command is run as the account that it concerns; as a normal user (sandbox) all as itself."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from t3flow import T3flowError

PRIVILEGE_TOOL = "setpriv"
"""util-linux. Never su or sudo: they put a process between us and the command, which then outlives us."""


class AccountError(T3flowError):
    """No such account."""


@dataclass(frozen=True)
class Account:
    """A name and the ids that work for it runs under."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def is_other(self) -> bool:
        """Whether this process has to change its account to work as this one."""
        return os.geteuid() == 0 and self.uid != 0


def is_root() -> bool:
    """Whether this process may become other accounts."""
    return os.geteuid() == 0


def account(name: str) -> Account:
    """The account of a user of the host; for a normal user, whatever the name, itself. Raises AccountError."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        entry = None
    if not is_root():
        return Account(name, os.geteuid(), os.getegid(), Path(entry.pw_dir if entry else "/nonexistent"))
    if entry is None:
        raise AccountError(f"there is no account {name} on this host: create it, or take it out of the settings")
    if entry.pw_uid == 0:
        raise AccountError(f"{name} is root: nothing from a registry and nothing in a home is run as root")
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def command_as(who: Account | None, command: list[str]) -> list[str]:
    """The command as `who` (None: as this process), which also dies when the thread that started it does."""
    change: list[str] = []
    if who is not None and who.is_other:
        change = [f"--reuid={who.uid}", f"--regid={who.gid}", "--init-groups", "--no-new-privs", "--inh-caps=-all"]
    return [PRIVILEGE_TOOL, *change, "--pdeathsig=KILL", "--", *command]
