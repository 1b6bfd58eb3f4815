"""Where a run stages a version: its scratch folder, and the slots that it makes. Called by steps; the steps say what makes it repeatable."""

from pathlib import Path

from t3flow.engine.files import DiskError, remove_tree, require_space, safe_name
from t3flow.engine.step import current_run
from t3flow.host import gate_account, slots
from t3flow.host.host import this_host
from t3flow.host.npm import install

SLOT_BYTES = 400 * 1024 * 1024
SANDBOX_SLOT_BYTES = 32 * 1024 * 1024
SCRATCH_PREFIX = "t3flow-"
RUN_NAMES = f"{SCRATCH_PREFIX}*-[0-9]*T[0-9]*-*"
"""What the scratch folders of runs are called."""


def scratch_folder(run: str) -> Path:
    """The one folder that a run may litter."""
    return this_host().settings.paths.scratch_dir / f"{SCRATCH_PREFIX}{safe_name(run)}"


def slot_bytes() -> int:
    """The space that a slot is taken to need."""
    return SLOT_BYTES if this_host().settings.serve.backend == "systemd" else SANDBOX_SLOT_BYTES


def versions_dir_for(in_scratch: bool) -> Path:
    """Where the slots are; a dry run has its own, in its scratch."""
    return scratch_folder(current_run()) / "slots" if in_scratch else this_host().settings.paths.versions_dir


def make_slot(versions_dir: Path, version: str) -> None:
    """Installs a version in the run's scratch, then copies it into a slot that says where it comes from."""
    host = this_host()
    folder = scratch_folder(current_run()) / "staging"
    folder.mkdir(mode=0o711, exist_ok=True)
    versions_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    require_space(versions_dir, slot_bytes(), f"the slot of {version}")
    gate_account.end_all(host)  # what a trial of earlier has left could reach into what is installed now
    note = {"origin": install.install(host, version, folder), "run": current_run()}
    gate_account.end_all(host)
    try:
        slots.make_slot(versions_dir, version, folder / "prefix", install.node_path(), note)
    except OSError as error:
        raise DiskError(
            f"the slot of {version} cannot be written ({error.strerror}): mend paths.versions_dir"
        ) from error
    remove_tree(folder)
