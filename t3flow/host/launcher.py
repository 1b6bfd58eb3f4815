"""The launcher: the few lines of sh at `paths.launcher` that lead each account to its assigned version."""

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
"""How long the launcher believes a mark that a user's server is starting: one that a kill left behind ends by itself."""
TEMPLATE = """\
#!/bin/sh
# Written by t3flow: runs the version of t3 that is assigned to the calling account.
# An odd or dangling link is an error (75), never the default version. Root runs nothing of a slot (77).
# So is an account whose name the host cannot tell (a directory service that is away): its link cannot be found.
# While a server starts on a new version, no other command of that version may migrate the database under it.
fail() {{ printf 't3: %s\n' "$1" >&2; exit 75; }}
versions_dir={versions_dir}
user={user} || fail "the name of this account cannot be told (id -un); try again in a minute"
link=$versions_dir/users/$user
[ -n "$user" ] && {{ [ -L "$link" ] || [ -e "$link" ]; }} || link=$versions_dir/current
[ "$(readlink "$link")" != ../hold ] || fail "the database of $user is being restored; try again in a minute"
slot=$(readlink -f "$link") && [ -x "$slot/{program}" ] && [ -x "$slot/.node" ] ||
  fail "$link leads to no usable version; ask the owner of this host to run: t3flow doctor"
case $slot in "$versions_dir"/versions/*) ;; *)
  fail "$link leads out of $versions_dir/versions; ask the owner of this host to run: t3flow doctor";; esac
case " $* " in {minting})
  [ -z "$(find "$versions_dir/users/.$user.starting" -mmin -{minutes} 2>/dev/null)" ] ||
    fail "the server of $user is starting; try again in a moment";; esac
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
        versions_dir=shlex.quote(str(versions_dir.resolve())),
        user=user,
        program=PROGRAM,
        minting="|".join(f'*" {word} "*' for word in MINTING),
        minutes=STARTING_MINUTES,
    )


def install_launcher(path: Path, versions_dir: Path, *, sandbox: bool) -> None:
    """Puts the launcher in place by one rename."""
    write_atomically(path, launcher_text(versions_dir, sandbox=sandbox), MODE)


def is_launcher(path: Path) -> bool:
    """Whether what is at `paths.launcher` was written by t3flow, of this version or another."""
    with suppress(OSError):
        return not path.is_symlink() and MARK.encode() in path.read_bytes()[:200]
    return False


def kept_former(path: Path) -> Path:
    """Where what was at `paths.launcher` before t3flow is kept aside."""
    return path.with_name(f".{path.name}.before-t3flow")


def keep_former(path: Path) -> None:
    """Keeps aside what is at `paths.launcher`, unless it is ours. It stays in place as well; repeating it is harmless."""
    if is_launcher(path) or not os.path.lexists(path):
        return
    kept = kept_former(path)
    if path.is_symlink():
        link_atomically(kept, os.readlink(path))
    else:
        kept.unlink(missing_ok=True)
        os.link(path, kept)
        sync_folder(kept.parent)


def forget_former(path: Path) -> None:
    """Removes what was kept aside, unless the launcher in place is ours. Repeating it is harmless."""
    if not is_launcher(path):
        kept_former(path).unlink(missing_ok=True)
        sync_folder(path.parent)


def bring_back_former(path: Path) -> None:
    """Puts what was kept aside in place of the launcher by one rename; without it the launcher is removed. Repeating it is harmless."""
    with suppress(FileNotFoundError):
        kept_former(path).rename(path)
    if is_launcher(path):
        path.unlink()
    sync_folder(path.parent)
