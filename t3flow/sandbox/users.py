"""Port, base dir and environment of a sandbox user. All users of a sandbox are one account."""

import os
from pathlib import Path

from t3flow import T3flowError
from t3flow.host.services import environment_files
from t3flow.settings.user_map import USER_NAME

SANDBOX_USER = "T3FLOW_SANDBOX_USER"
"""The variable that names the user to the launcher in a sandbox."""


class UserError(T3flowError):
    """The settings of a user's server are missing or invalid."""


def port_of(serve_env_dir: Path, user: str) -> int:
    """Return the port in the line `T3_PORT=…` of `serve_env_dir/USER.env`. Raise UserError."""
    if not is_name(user):
        raise UserError(f"{user!a} is not a user name")
    path = serve_env_dir / f"{user}.env"
    try:
        port = environment_files.parse(path.read_text()).get("T3_PORT", "")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"{path} has no line T3_PORT=PORT")
    return int(port)


def is_name(user: object) -> bool:
    """Return whether the value is a user name, and therefore safe as a file name."""
    return isinstance(user, str) and USER_NAME.fullmatch(user) is not None


def base_dir_of(template: str, user: str) -> Path:
    """Return the base dir of a user: the template with `{user}` filled in."""
    return Path(template.replace("{user}", user))


def environment_of(user: str, home: Path) -> dict[str, str]:
    """Return this process's environment with the variables that identify a user."""
    return {**os.environ, SANDBOX_USER: user, "USER": user, "LOGNAME": user, "HOME": str(home)}
