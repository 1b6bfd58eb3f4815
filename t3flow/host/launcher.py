"""The launcher: the few lines of sh at `paths.launcher` that lead each account to its assigned version."""

import shlex
from pathlib import Path

from t3flow.files import write_atomically

SANDBOX_USER = "T3FLOW_SANDBOX_USER"
TEMPLATE = """\
#!/bin/sh
# Written by t3flow: runs the version of t3 that is assigned to the calling account.
# An odd or dangling link is an error (75), never the default version. Root runs nothing of a slot (77).
versions_dir={versions_dir}
user={user}
link=$versions_dir/users/$user
[ -n "$user" ] && {{ [ -L "$link" ] || [ -e "$link" ]; }} || link=$versions_dir/current
[ "$(readlink "$link")" != ../hold ] || {{ echo "t3: the database of $user is being restored; try again in a minute" >&2; exit 75; }}
slot=$(readlink -f "$link") && [ -x "$slot/{program}" ] && [ -x "$slot/.node" ] || {{
  echo "t3: $link leads to no usable version; ask the owner of this host to run: t3flow doctor" >&2; exit 75; }}
case $slot in "$versions_dir"/versions/*) ;; *)
  echo "t3: $link leads out of $versions_dir/versions; ask the owner of this host to run: t3flow doctor" >&2; exit 75;; esac
if [ "$(id -u)" = 0 ]; then
  [ "$*" = --version ] && {{ echo "t3 v${{slot##*/}}"; exit 0; }}
  echo "t3: not as root, which would run code from the registry; use: runuser -u USER -- t3 ..." >&2; exit 77
fi
exec "$slot/.node" "$slot/{program}" "$@"
"""


def launcher_text(versions_dir: Path, *, sandbox: bool) -> str:
    """The script. In the sandbox, where all users are one account, a variable says who calls."""
    user = f'"${{{SANDBOX_USER}:-}}"' if sandbox else '"$(id -un)"'
    return TEMPLATE.format(
        versions_dir=shlex.quote(str(versions_dir.resolve())), user=user, program="node_modules/.bin/t3"
    )


def install_launcher(path: Path, versions_dir: Path, *, sandbox: bool) -> None:
    """Puts the launcher in place by one rename."""
    write_atomically(path, launcher_text(versions_dir, sandbox=sandbox), 0o755)
