"""The person who runs a command, for the record. A command run through sudo is recorded under the account that logged in."""

import getpass
import os
import pwd
from contextlib import suppress
from pathlib import Path

LOGIN_UID = Path("/proc/self/loginuid")
NO_LOGIN = 2**32 - 1


def calling_account() -> str:
    """Return the account that a person logged in with: as root from sudo's variable, else the kernel's login uid; else this process's account."""
    if os.geteuid() == 0:
        if name := os.environ.get("SUDO_USER", ""):
            return name
        with suppress(OSError, ValueError, KeyError):
            uid = int(LOGIN_UID.read_text())
            if uid != NO_LOGIN:
                return pwd.getpwuid(uid).pw_name
        return "root"
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        with suppress(KeyError, OSError):
            return getpass.getuser()
        return f"uid {os.geteuid()}"
