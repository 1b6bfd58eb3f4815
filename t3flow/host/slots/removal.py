"""Removal of slots that nothing needs, and of partial ones."""

from pathlib import Path

from t3flow.engine.files import remove_tree
from t3flow.host.slots import default_version, links, running_version, slot_path, slots_dir


def needed_by(versions_dir: Path, version: str, running: dict[str, int] | None = None) -> str | None:
    """Return what needs a slot (a link or a process), or None. `running` is a fresh result of `running_version.all_running`."""
    for user, linked in links(versions_dir).items():
        if linked == version:
            return f"the link of {user}"
    if default_version(versions_dir) == version:
        return "the default link"
    pid = (running_version.all_running(versions_dir) if running is None else running).get(
        slot_path(versions_dir, version).name
    )
    return f"process {pid}" if pid is not None else None


def remove_slot(versions_dir: Path, version: str, running: dict[str, int] | None = None) -> str | None:
    """Remove a slot, or return what needs it. Idempotent."""
    reason = needed_by(versions_dir, version, running)
    if reason is None:
        path = slot_path(versions_dir, version)
        doomed = path.with_name(f".{path.name}.partial")
        if path.exists():
            remove_tree(doomed)
            path.rename(doomed)
        remove_tree(doomed)
    return reason


def remove_partials(versions_dir: Path) -> None:
    """Remove what interrupted creations and removals have left. Only for a run with the host lock."""
    for path in slots_dir(versions_dir).glob(".*.partial"):
        remove_tree(path)
