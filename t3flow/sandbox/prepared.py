"""A store of slots that npm has made once, for all sandboxes of a test session.

With T3FLOW_SANDBOX_SLOTS set to a folder, a sandbox that is set up copies its slots from there; the first to need a slot has npm make it.
Installs of a run under test never come from the store.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from t3flow.host import slots
from t3flow.sandbox.registry import PACKAGE, Registry

VARIABLE = "T3FLOW_SANDBOX_SLOTS"
NPM_SETTINGS = {"npm_config_registry"}
"""What a sandbox tells npm by its environment unless a test adds to it."""


def make_slot(
    versions_dir: Path, version: str, registry: Registry, environment: Mapping[str, str], install: Callable[[], None]
) -> None:
    """Put a slot into `versions_dir`: a copy of the stored one, else by `install`, whose slot is stored. Idempotent."""
    final = slots.slot_path(versions_dir, version)
    name = _name(version, registry, environment)
    if name is None or slots.has_slot(versions_dir, version):
        install()
        return
    stored = Path(os.environ[VARIABLE], name)
    if not stored.exists():
        install()
        _copy(final, stored)
        return
    final.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _copy(stored, final)


def _copy(source: Path, target: Path) -> None:
    """Copy a slot by one rename; when another process has put the target there meanwhile, that one stays."""
    beside = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    shutil.copytree(source, beside / "slot", symlinks=True)
    with suppress(OSError):
        (beside / "slot").rename(target)
    shutil.rmtree(beside)


def _name(version: str, registry: Registry, environment: Mapping[str, str]) -> str | None:
    """The name in the store: a checksum of the parts of the version. None without a store, and where more than the parts decides on a slot:
    signatures, attestations, tokens, faults or settings of npm."""
    state = registry.state()
    told = {name for name in environment if name.lower().startswith("npm_config_")}
    attested = any(package["attested"] for package in state["packages"].values())
    special = bool(state["faults"] or state["token"] or attested) or registry.keys.exists() or told != NPM_SETTINGS
    if VARIABLE not in os.environ or special or not registry.tarball(version, PACKAGE).exists():
        return None
    parts = sorted(registry.tarballs.glob(f"*/{version}.tgz"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
