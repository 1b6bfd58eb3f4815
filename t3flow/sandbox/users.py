"""What the sandbox's servers know of a user: port, base dir and environment. All users of a sandbox are one account."""

import os
from pathlib import Path

from t3flow import T3flowError
from t3flow.host.services import environment_files
from t3flow.settings.user_map import USER_NAME

SANDBOX_USER = "T3FLOW_SANDBOX_USER"
"""The variable that tells the launcher, in a sandbox, whose version to run."""


class UserError(T3flowError):
    """A user whose server the sandbox does not know."""


def port_of(serve_env_dir: Path, user: str) -> int:
    """The port in the line `T3_PORT=…` of `serve_env_dir/USER.env`. Raises UserError."""
    if not is_name(user):
        raise UserError(f"{user!a} cannot name a user")
    path = serve_env_dir / f"{user}.env"
    try:
        found = environment_files.parse(path.read_text()).get("T3_PORT", "")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not (found.isascii() and found.isdigit() and 0 < int(found) < 65536):
        raise UserError(f"{path}: has no line T3_PORT=PORT")
    return int(found)


def is_name(user: object) -> bool:
    """Whether something can name a user, and so a file."""
    return isinstance(user, str) and USER_NAME.fullmatch(user) is not None


def base_dir_of(template: str, user: str) -> Path:
    """A user's base dir: the template with `{user}` filled in."""
    return Path(template.replace("{user}", user))


def environment_of(user: str, home: Path) -> dict[str, str]:
    """What a program is started with on behalf of a user: this process's environment, and who they are."""
    return {**os.environ, SANDBOX_USER: user, "USER": user, "LOGNAME": user, "HOME": str(home)}
