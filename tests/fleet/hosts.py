"""Several sandboxes as hosts of one fleet on one Redis."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from t3flow.fleet import signatures
from t3flow.sandbox.host import Sandbox

BAKE = "[bake]\nminutes = 0.02\n"


def settings_of(name: str, folder: Path, url: str, **more: Any) -> str:
    """Return the settings of a host, whose key and peers are in a folder that all hosts share."""
    values = {"url": url, "host": name, "key_file": str(folder / f"{name}.key"), "peers": str(folder / "peers"), **more}
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in values.items()]
    return "\n".join(["[fleet]", *lines, ""])


def make_keys(folder: Path, *names: str) -> None:
    """Create the keys of hosts, and give each public key to all."""
    (folder / "peers").mkdir(parents=True, exist_ok=True)
    for name in names:
        signatures.create_private_key(folder / f"{name}.key")
        public = signatures.encoded(signatures.private_key(folder / f"{name}.key").public_key())
        (folder / "peers" / f"{name}.pub").write_text(f"{public}\n")


def edit(box: Sandbox, old: str, new: str) -> None:
    """Change a line of a sandbox's settings."""
    text = box.config.read_text()
    assert old in text
    box.config.write_text(text.replace(old, new))


def make_hosts(
    make_box: Callable[..., Sandbox], folder: Path, url: str, waves: dict[str, int], **more: Any
) -> dict[str, Sandbox]:
    """Start a host for each name, with one user each, whose bumps wait for up to a minute, and who bakes for a second."""
    make_keys(folder, *waves)
    found = {}
    for name, wave in waves.items():
        box = make_box(["ada"], extra=settings_of(name, folder, url, wave=wave, **more) + BAKE, consumer=False)
        edit(box, "retry_s = 0", "retry_s = 5")
        box.start_consumer()
        found[name] = box
    return found
