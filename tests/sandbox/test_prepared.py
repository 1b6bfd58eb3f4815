"""Slots that are copied from a store instead of being made by npm again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t3flow.host import slots
from t3flow.host.npm import packages
from t3flow.sandbox import prepared
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.registry import Registry

VERSION = "0.0.24"


@pytest.fixture
def boxes(
    make_box: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[Sandbox, list[str]]]:
    """Make sandboxes that share a new store, each with the versions that npm installed for it."""
    monkeypatch.setenv(prepared.VARIABLE, str(tmp_path))
    install = packages.install

    def make(behaviour: dict[str, int]) -> tuple[Sandbox, list[str]]:
        box = make_box(["ada"], start=False)
        installed: list[str] = []
        monkeypatch.setattr(packages, "install", lambda *given: installed.append(given[1]) or install(*given))
        box.start_registry()
        box.publish(VERSION, behaviour)
        return box, installed

    return make


def content(box: Sandbox) -> dict[str, bytes]:
    top = slots.slot_path(box.settings.paths.versions_dir, VERSION)
    port = str(box.registry_port).encode()
    files = {str(path.relative_to(top)): path for path in top.rglob("*") if path.name != ".node" and path.is_file()}
    return {name: path.read_bytes().replace(port, b"PORT") for name, path in files.items() if "lock" not in name}


def test_the_second_sandbox_gets_a_copy(boxes: Callable[..., tuple[Sandbox, list[str]]]) -> None:
    """It is what npm makes, and changing it changes no other. Another build of the same version is another slot."""
    first, by_npm = boxes({"schema_level": 30})
    first.install_slot(VERSION)
    second, copied = boxes({"schema_level": 30})
    second.install_slot(VERSION)
    assert (by_npm, copied) == ([VERSION], [])
    made = content(first)
    assert made == content(second)
    assert made
    slot = slots.slot_path(second.settings.paths.versions_dir, VERSION)
    (slot / "package.json").write_text("{}")
    third, again = boxes({"schema_level": 30})
    third.install_slot(VERSION)
    assert (again, content(third)) == ([], made)
    other, anew = boxes({"schema_level": 31})
    other.install_slot(VERSION)
    assert anew == [VERSION]


@pytest.mark.parametrize("special", ["token", "signatures", "setting"])
def test_where_more_than_the_parts_decides_npm_is_asked(
    boxes: Callable[..., tuple[Sandbox, list[str]]], special: str
) -> None:
    plain, _ = boxes({"schema_level": 30})
    plain.install_slot(VERSION)
    box, _ = boxes({"schema_level": 30})
    registry = Registry(box.top / "registry")
    assert prepared._name(VERSION, registry, box.environment) is not None
    if special == "token":
        registry.require_token("npm_secret")
    elif special == "signatures":
        registry.enable_signatures()
    else:
        box.environment["npm_config_ignore_scripts"] = "true"
    assert prepared._name(VERSION, registry, box.environment) is None
