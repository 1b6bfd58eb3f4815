r"""Drop-in for a user's unit: `USER.unit.json` beside `USER.env`.

{"exec_start": ["/home/ada/bin/t3", "serve", "--port", "{port}"], "wrapper": "umask 027; \"$@\"", "kill_mode": "process"}

`exec_start` replaces the command; `{launcher}`, `{host}`, `{port}` and `{base_dir}` in it are filled in. `wrapper` is a script for sh that gets
the command as its arguments and stays the main process unless it calls `exec`. `kill_mode` is `control-group` or `process`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from t3flow.sandbox.users import UserError


@dataclass(frozen=True)
class UnitFile:
    """The drop-in of one unit."""

    exec_start: list[str] = field(default_factory=list)
    wrapper: str = ""
    kill_mode: str = "control-group"

    @property
    def leaves_others(self) -> bool:
        """Return whether a stop ends only the main process."""
        return self.kill_mode == "process"

    def command(self, usual: list[str]) -> list[str]:
        """Return the command of the main process. `usual` is LAUNCHER serve --host HOST --port PORT --base-dir DIR."""
        launcher, _, _, host, _, port, _, base_dir = usual
        filled = {"{launcher}": launcher, "{host}": host, "{port}": port, "{base_dir}": base_dir}
        words = [filled.get(word, word) for word in self.exec_start] or usual
        return ["/bin/sh", "-c", self.wrapper, "sh", *words] if self.wrapper else words


def read_unit_file(serve_env_dir: Path, user: str) -> UnitFile:
    """Return the drop-in of a user's unit, by default an empty one. Raise UserError if it is invalid."""
    path = serve_env_dir / f"{user}.unit.json"
    try:
        return UnitFile(**json.loads(path.read_text()))
    except FileNotFoundError:
        return UnitFile()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
