"""What the sandbox's servers know of a user: port, base dir and environment. All users of a sandbox are one account."""

import os
import re
from pathlib import Path

from t3flow.errors import T3flowError

SANDBOX_USER = "T3FLOW_SANDBOX_USER"
"""The variable that tells the launcher, in a sandbox, whose version to run."""

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PORT = re.compile(r"""^\s*T3_PORT=["']?(\d{1,5})["']?\s*$""", re.MULTILINE)


class UserError(T3flowError):
    """A user whose server the sandbox does not know."""


def port_of(serve_env_dir: Path, user: str) -> int:
    """The port in the line `T3_PORT=…` of `serve_env_dir/USER.env`. Raises UserError."""
    if not is_name(user):
        raise UserError(f"{user!a} cannot name a user")
    path = serve_env_dir / f"{user}.env"
    try:
        found = _PORT.findall(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not found or not 0 < int(found[-1]) < 65536:
        raise UserError(f"{path}: has no line T3_PORT=PORT")
    return int(found[-1])


def is_name(user: object) -> bool:
    """Whether something can name a user, and so a file."""
    return isinstance(user, str) and _NAME.fullmatch(user) is not None


def base_dir_of(template: str, user: str) -> Path:
    """A user's base dir: the template with `{user}` filled in."""
    return Path(template.replace("{user}", user))


def environment_of(user: str, home: Path) -> dict[str, str]:
    """What a program is started with on behalf of a user: this process's environment, and who they are."""
    return {**os.environ, SANDBOX_USER: user, "USER": user, "LOGNAME": user, "HOME": str(home)}
