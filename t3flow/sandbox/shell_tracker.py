"""A sandbox in the state of a host with the shell tracker: one global install, markers, enabled timers, no slots and no assignments."""

import os
import subprocess
from pathlib import Path
from typing import Any

from t3flow.adoption.shell_tracker import TIMERS
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import create_state_dir, open_journal


def start(box: Sandbox, version: str, databases: dict[str, Path], behavior: dict[str, Any] | None = None) -> None:
    """Start everything but the consumer, with a version that is installed globally."""
    box.copy_databases(databases)
    box.start_registry()
    box.publish(version, behavior)
    start_published(box, version)


def start_published(box: Sandbox, version: str, *words: str) -> None:
    """Start like `start`, with a version that the registry already has. `words` are options for npm."""
    install(box, version, *words)
    accept(box, version)
    for timer in TIMERS:
        box.settings.paths.serve_env_dir.joinpath(timer).touch()
    create_state_dir(box.settings.paths.state_dir)
    open_journal(box.settings, create=True)
    box.start_servers()


def install(box: Sandbox, version: str, *options: str) -> None:
    """Run `npm install -g`, as the shell tracker does: it replaces the folder under running servers."""
    prefix = box.top / "usr"
    words = ["npm", "install", "-g", "--prefix", str(prefix), "--no-audit", "--no-fund", *options, f"t3@{version}"]
    subprocess.run(words, env=box.environment, check=True, capture_output=True)
    launcher = box.settings.paths.launcher
    if not os.path.lexists(launcher):
        launcher.symlink_to(Path("../usr/lib/node_modules/t3/bin/t3.js"))


def accept(box: Sandbox, version: str) -> None:
    """Write last-good."""
    box.settings.paths.last_good_file.write_text(f"{version}\n")


def mark(box: Sandbox, user: str, version: str) -> None:
    """Mark a user as deferred."""
    folder = box.settings.paths.last_good_file.parent / "deferred"
    folder.mkdir(exist_ok=True)
    (folder / user).write_text(f"{version}\n")


def restart(box: Sandbox, user: str) -> None:
    """Restart a user's server on the installed version."""
    box.supervise("stop", user)
    box.supervise("start", user)
    box.await_pairing(user)
