"""Accounts and privileges. Root runs each command as the account concerned; a normal user (sandbox) runs everything as itself."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from t3flow import T3flowError

PRIVILEGE_TOOL = "setpriv"
"""From util-linux. su and sudo stay between t3flow and the command, which would then outlive t3flow."""


class AccountError(T3flowError):
    """An account is missing, or must not be used."""


@dataclass(frozen=True)
class Account:
    """A name, and the ids that commands for it run under."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def is_other(self) -> bool:
        """Return whether this process must switch accounts to act as this one."""
        return os.geteuid() == 0 and self.uid != 0


def is_root() -> bool:
    """Return whether this process may switch accounts."""
    return os.geteuid() == 0


def account(name: str) -> Account:
    """Return the account of that name; without root, the ids of this process whatever the name. Raise AccountError."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        entry = None
    if not is_root():
        return Account(name, os.geteuid(), os.getegid(), Path(entry.pw_dir if entry else "/nonexistent"))
    if entry is None:
        raise AccountError(f"account {name} does not exist on this host: create it, or remove it from the settings")
    if entry.pw_uid == 0:
        raise AccountError(f"account {name} is root: t3flow runs no registry code and nothing in a home as root")
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def command_as(account: Account | None, command: list[str]) -> list[str]:
    """Return the command line that runs a command as an account (None: this process's own).

    The command is killed when the thread that started it ends.
    """
    change: list[str] = []
    if account is not None and account.is_other:
        ids = [f"--reuid={account.uid}", f"--regid={account.gid}"]
        change = [*ids, "--init-groups", "--no-new-privs", "--inh-caps=-all"]
    return [PRIVILEGE_TOOL, *change, "--pdeathsig=KILL", "--", *command]
