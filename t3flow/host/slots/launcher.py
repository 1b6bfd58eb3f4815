"""The launcher: the sh script at `paths.launcher` that runs the version assigned to the calling account."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import link_atomically, sync_folder, write_atomically
from t3flow.t3.commands import MINTING
from t3flow.t3.processes import PROGRAM

SANDBOX_USER = "T3FLOW_SANDBOX_USER"
MARK = "# Written by t3flow"
MODE = 0o755
STARTING_MINUTES = 5
"""How long the launcher honors the mark of a starting server: a mark left by a kill expires."""
TEMPLATE = """\
#!/bin/sh
true /* For sh this line does nothing, and for Node a comment begins here.
# Written by t3flow: runs the version of t3 that is assigned to the calling account.
# Fails closed (75) on an odd or dangling link, and on an account without a name (directory service down), whose link
# cannot be found: the default version never replaces an assigned one. Root runs no code of a slot (77).
# While a server starts on a new version, no other command may migrate its database.
fail() {{ printf 't3: %s\n' "$1" >&2; exit 75; }}
versions_dir={versions_dir}
user={user} || fail "cannot get the name of this account (id -un); try again in a minute"
link=$versions_dir/users/$user
[ -n "$user" ] && {{ [ -L "$link" ] || [ -e "$link" ]; }} || link=$versions_dir/current
[ "$(readlink "$link")" != ../hold ] || fail "the database of $user is being restored; try again in a minute"
slot=$(readlink -f "$link") && [ -x "$slot/{program}" ] && [ -x "$slot/.node" ] ||
  fail "$link does not point to a usable version; ask the administrator of this host to run: t3flow doctor"
case $slot in "$versions_dir"/versions/*) ;; *)
  fail "$link points outside $versions_dir/versions; ask the administrator of this host to run: t3flow doctor";; esac
case " $* " in {minting})
  [ -z "$(find "$versions_dir/users/.$user.starting" -mmin -{minutes} 2>/dev/null)" ] ||
    fail "the server of $user is starting; try again in a moment";; esac
if [ "$(id -u)" = 0 ]; then
  [ "$*" = --version ] && {{ echo "t3 v$(basename "$slot")"; exit 0; }}
  echo "t3: does not run as root, since its code comes from the registry; use: runuser -u USER -- t3 ..." >&2; exit 77
fi
exec "$slot/.node" "$slot/{program}" "$@"
: <<'NODE'
*/
// A Node that was started for the script that was here before reads this one, if it was replaced in that moment.
process.exit(require("child_process").spawnSync(__filename, process.argv.slice(2), {{ stdio: "inherit" }}).status ?? 75);
NODE
"""


def launcher_text(versions_dir: Path, *, sandbox: bool) -> str:
    """Return the script. In the sandbox all users are one account, so a variable names the caller."""
    user = f'"${{{SANDBOX_USER}:-}}"' if sandbox else '"$(id -un)"'
    return TEMPLATE.format(
        versions_dir=shlex.quote(str(versions_dir.resolve())),
        user=user,
        program=PROGRAM,
        minting="|".join(f'*" {word} "*' for word in MINTING),
        minutes=STARTING_MINUTES,
    )


def install_launcher(path: Path, versions_dir: Path, *, sandbox: bool) -> None:
    """Install the launcher by one rename. Idempotent."""
    write_atomically(path, launcher_text(versions_dir, sandbox=sandbox), MODE)


def is_launcher(path: Path) -> bool:
    """Return whether any version of t3flow wrote this file."""
    with suppress(OSError):
        return not path.is_symlink() and MARK.encode() in path.read_bytes()[:200]
    return False


def former_path(path: Path) -> Path:
    """Return where the launcher from before t3flow is kept."""
    return path.with_name(f".{path.name}.before-t3flow")


def keep_former_launcher(path: Path) -> None:
    """Keep a second link to the present launcher, unless t3flow wrote it. Idempotent."""
    if is_launcher(path) or not os.path.lexists(path):
        return
    kept = former_path(path)
    if path.is_symlink():
        link_atomically(kept, os.readlink(path))
    else:
        kept.unlink(missing_ok=True)
        os.link(path, kept)
        sync_folder(kept.parent)


def drop_former_launcher(path: Path) -> None:
    """Drop the kept launcher, unless the present one was written by t3flow. Idempotent."""
    if not is_launcher(path):
        former_path(path).unlink(missing_ok=True)
        sync_folder(path.parent)


def restore_former_launcher(path: Path) -> None:
    """Put the kept launcher back by one rename; without one, remove the launcher of t3flow. Idempotent."""
    with suppress(FileNotFoundError):
        former_path(path).rename(path)
    if is_launcher(path):
        path.unlink()
    sync_folder(path.parent)
