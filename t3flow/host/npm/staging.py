"""Scratch folders and version slots created by a run. Called from steps, which document why a repeat is safe."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import DiskError, remove_tree, require_space, safe_name
from t3flow.engine.step import current_run
from t3flow.host import gate_account
from t3flow.host.host import Host, current_host
from t3flow.host.npm import packages
from t3flow.host.slots import creation

SLOT_BYTES = 400 * 1024 * 1024
SANDBOX_SLOT_BYTES = 32 * 1024 * 1024
SCRATCH_PREFIX = "t3flow-"
SCRATCH_PATTERN = f"{SCRATCH_PREFIX}*-[0-9]*T[0-9]*-*"
"""Names of the scratch folders of runs."""


def scratch_folder(run: str) -> Path:
    """Return the scratch folder of a run, the only one that it may litter."""
    return current_host().settings.paths.scratch_dir / f"{SCRATCH_PREFIX}{safe_name(run)}"


def stale_scratch(host: Host) -> Iterator[Path]:
    """Yield the scratch folders of runs that ended or were never journaled.

    Every account may create entries there, with millions of files in them. What another account owns is none of t3flow's.
    """
    live = {f"{SCRATCH_PREFIX}{run.id}" for run in host.journal.runs("status = 'running'")}
    for folder in host.settings.paths.scratch_dir.glob(SCRATCH_PATTERN):
        with suppress(FileNotFoundError):
            if folder.name not in live and folder.lstat().st_uid == os.geteuid():
                yield folder


def slot_bytes() -> int:
    """Return the assumed size of a slot."""
    return SLOT_BYTES if current_host().settings.serve.backend == "systemd" else SANDBOX_SLOT_BYTES


def versions_dir_for(in_scratch: bool) -> Path:
    """Return the folder of the slots; a dry run has its own in its scratch folder."""
    return scratch_folder(current_run()) / "slots" if in_scratch else current_host().settings.paths.versions_dir


def make_slot(versions_dir: Path, version: str) -> None:
    """Install a version in the run's scratch folder, then copy it into a slot with its provenance. Raise DiskError."""
    host = current_host()
    folder = scratch_folder(current_run()) / "staging"
    folder.mkdir(mode=0o711, exist_ok=True)
    versions_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    require_space(versions_dir, slot_bytes(), f"the slot of {version}")
    gate_account.end_processes(host)  # leftovers of an earlier trial could change the files of this install
    note = {"origin": packages.install(host, version, folder), "run": current_run()}
    gate_account.end_processes(host)
    try:
        creation.create_slot(versions_dir, version, folder / "prefix", packages.node_path(), note)
    except OSError as error:
        raise DiskError(
            f"the slot of {version} cannot be written ({error.strerror}): fix paths.versions_dir"
        ) from error
    remove_tree(folder)
