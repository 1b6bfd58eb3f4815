"""Installs from a sandbox's registry, without the rest of a run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from scenes import NEXT

from t3flow.host.host import Host, open_host
from t3flow.host.npm import command, origin, packages
from t3flow.sandbox.environment import environment_of
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.registry import Registry
from t3flow.service.consumer import create_state_dir, open_journal
from t3flow.settings import load as settings_module


@contextmanager
def host_of(box: Sandbox, **chosen: str) -> Iterator[Host]:
    """Return the host of a sandbox that has only a registry, with these settings."""
    read = settings_module.load(box.config, {f"T3FLOW_{name.upper()}": value for name, value in chosen.items()})
    create_state_dir(read.paths.state_dir)
    with environment_of(box.environment):
        yield open_host(read, open_journal(read, create=True))


def installed(box: Sandbox, version: str = NEXT, *, keep: bool = False, **chosen: str) -> origin.Origin | str:
    """Return what an install says of a version's origin, or why it is refused. The tree is at `scratch/one/prefix` if it is to be kept."""
    folder = box.top / "scratch" / "one"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with host_of(box, **chosen) as host:
            return packages.install(host, version, folder)
    except (command.PackageError, command.RegistryUnreachable, command.IncompleteRelease) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if not keep:
            shutil.rmtree(folder)


def of(box: Sandbox) -> Registry:
    """Return the registry of a sandbox."""
    return Registry(box.top / "registry")
