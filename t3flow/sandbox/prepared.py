"""A cache of slots that is shared by all sandboxes of a test session.

If T3FLOW_SANDBOX_SLOTS names a folder, the setup of a sandbox copies slots from it, and adds those that npm had to install.
A run under test never uses the cache.
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
"""Settings of npm in the environment of a sandbox, unless a test adds some."""


def make_slot(
    versions_dir: Path, version: str, registry: Registry, environment: Mapping[str, str], install: Callable[[], None]
) -> None:
    """Put a slot into `versions_dir`: a copy from the cache, or by `install`, whose slot is added to the cache. Idempotent."""
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
    """Copy a slot by one rename. If another process created the target first, keep that one."""
    beside = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    shutil.copytree(source, beside / "slot", symlinks=True)
    with suppress(OSError):
        (beside / "slot").rename(target)
    shutil.rmtree(beside)


def _name(version: str, registry: Registry, environment: Mapping[str, str]) -> str | None:
    """Return the name in the cache: a checksum of the packages of the version.

    None without a cache, and if the slot also depends on signatures, attestations, tokens, faults, or settings of npm.
    """
    state = registry.state()
    npm_settings = {name for name in environment if name.lower().startswith("npm_config_")}
    attested = any(package["attested"] for package in state["packages"].values())
    special = (
        bool(state["faults"] or state["token"] or attested) or registry.keys.exists() or npm_settings != NPM_SETTINGS
    )
    if VARIABLE not in os.environ or special or not registry.tarball(version, PACKAGE).exists():
        return None
    parts = sorted(registry.tarballs.glob(f"*/{version}.tgz"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
