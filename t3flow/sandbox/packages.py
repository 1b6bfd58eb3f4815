"""npm packages of the stand-in t3: the folder `standin/`, given a version and a behaviour, as npm would publish it."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t3flow.versions import parse

TEMPLATE = Path(__file__).parent / "standin"
PACKAGE = "t3"
PROGRAM = "bin/t3.js"
OLD_LEVEL, NEW_LEVEL = 30, 32
LAST_OLD_VERSION = "0.0.24"
PACKED_AT = 499162500  # npm's own date for every file, so that equal builds are equal bytes


def default_level(version: str) -> int:
    """The schema level that the real t3 has in a version. Raises InvalidVersion for what is no version."""
    return OLD_LEVEL if parse(version) <= parse(LAST_OLD_VERSION) else NEW_LEVEL


def pack(
    version: str,
    folder: Path,
    behaviour: dict[str, Any] | None = None,
    *,
    schema_level: int | None = None,
    padding_files: int = 0,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Packs a build of the stand-in and returns the path of its tarball in the folder, which is made if need be.

    `behaviour` is a build's `behaviour.json`, its faults. The level to which it migrates is `schema_level`, else the
    behaviour's, else that of the real version. `padding_files` adds that many files, as a real install has thousands.
    `manifest` is put over the package.json: `{"scripts": {"install": …}}`, a `version` that lies.
    Raises InvalidVersion, OSError.
    """
    rules = dict(behaviour or {})
    rules["schema_level"] = schema_level or rules.get("schema_level") or default_level(version)
    rules.setdefault("rules", [])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PACKAGE}-{version}.tgz"
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in _files(version, rules, padding_files, manifest or {}):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mtime = len(content), PACKED_AT
            entry.mode = 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    partial = target.with_suffix(".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(target)
    return target


def _files(
    version: str, behaviour: dict[str, Any], padding_files: int, manifest: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """The files of a package in a fixed order: (name, content)."""
    described = json.loads((TEMPLATE / "package.json").read_text())
    described |= {"name": PACKAGE, "version": version, "bin": {"t3": PROGRAM}, **manifest}
    made = {"package.json": _json(described), "behaviour.json": _json(behaviour)}
    for path in sorted(TEMPLATE.rglob("*")):
        name = path.relative_to(TEMPLATE).as_posix()
        if path.is_file():
            yield name, made.pop(name) if name in made else path.read_bytes()
    yield from sorted(made.items())
    for number in range(padding_files):
        yield f"padding/{number // 500:03}/{number:05}.js", f"module.exports = {number};\n".encode()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
