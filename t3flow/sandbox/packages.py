"""npm packages of the stand-in t3: the folder `standin/` with a version and a behavior, packed as by npm.

Generations A and B are one Node package. C, D and E are a launcher package and a package for each platform, at the same version.
"""

import gzip
import io
import json
import platform
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from t3flow.t3.versions import parse

TEMPLATE = Path(__file__).parent / "standin"
PACKAGE = "t3"
PROGRAM = "bin/t3.js"
SCOPE = "@t3code"
OLD_LEVEL, NEW_LEVEL = 30, 32
LAST_OLD_VERSION = "0.0.24"
LEVELS = {"A": OLD_LEVEL, "B": NEW_LEVEL, "C": 52, "D": 56, "E": 60}
NATIVE = ("C", "D", "E")
"""Generations that consist of several packages."""
PLATFORMS = tuple(f"{system}-{machine}" for system in ("linux", "darwin", "win32") for machine in ("x64", "arm64"))
PACKED_AT = 499162500  # npm's date for every file: equal builds have equal bytes
MONITOR = "t3-resource-monitor"
EXECUTABLE = {PROGRAM, "t3"}
ONE_PACKAGE = ("bin/", "lib/", "web/")
NODE_PTY = "node_modules/node-pty"
NATIVE_FILES = {
    "native/t3": "t3",
    "native/node-pty/package.json": f"{NODE_PTY}/package.json",
    "native/node-pty/install.js": f"{NODE_PTY}/install.js",
    "native/node-pty/pty.node": f"{NODE_PTY}/build/Release/pty.node",
    "web/index.html": "client/index.html",
}
LAUNCHER_FILES = {"launcher/t3.js": PROGRAM, "launcher/bin.mjs": "dist/bin.mjs"}

Files = Iterable[tuple[str, bytes]]


def default_level(version: str) -> int:
    """Return the schema level of the real t3 at a version of A or B. Raise InvalidVersion."""
    return OLD_LEVEL if parse(version) <= parse(LAST_OLD_VERSION) else NEW_LEVEL


def this_platform() -> str:
    """Return npm's name of this platform."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{sys.platform}-{machine}"


def platform_package(name: str = "") -> str:
    """Return the package of a platform, by default this one."""
    return f"{SCOPE}/t3-{name or this_platform()}"


def generation_of(behavior: dict[str, Any] | None) -> str:
    """Return the generation of a behavior; "" if the version decides between A and B."""
    return str((behavior or {}).get("generation", ""))


def pack(
    version: str,
    folder: Path,
    behavior: dict[str, Any] | None = None,
    *,
    schema_level: int | None = None,
    padding_files: int = 0,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Pack a build of the stand-in that is one Node package (A, B), and return its tarball in the folder, which is created if needed.

    `behavior` becomes `behavior.json`. The build migrates to `schema_level`, else to the behavior's level, else to that of the real version.
    `padding_files` adds that many files, because a real install has thousands. `manifest` overrides keys of the package.json.
    Raise InvalidVersion, OSError, and ValueError for a generation with several packages.
    """
    if generation_of(behavior) in NATIVE:
        raise ValueError(f"generation {generation_of(behavior)} has several packages: use pack_release")
    rules = _rules(version, behavior, schema_level)
    package_json = json.loads((TEMPLATE / "package.json").read_text())
    package_json |= {"name": PACKAGE, "version": version, "bin": {"t3": PROGRAM}, **(manifest or {})}
    return _write(folder / f"{PACKAGE}-{version}.tgz", _node_package(package_json, rules, padding_files))


def pack_release(
    version: str,
    folder: Path,
    behavior: dict[str, Any] | None = None,
    *,
    generation: str = "",
    schema_level: int | None = None,
    padding_files: int = 0,
    manifest: dict[str, Any] | None = None,
    platforms: Iterable[str] = PLATFORMS,
    platform_manifest: dict[str, Any] | None = None,
) -> list[Path]:
    """Pack all packages of a release, and return the tarballs in publishing order: platform packages first, `t3` last.

    The generation is `generation`, else the behavior's, else A or B by the version. Only the `platforms` are packed, but the launcher always names
    all PLATFORMS. Only the package of this platform contains a program; `padding_files` go into it. `platform_manifest` overrides keys of each
    platform package's package.json. See `pack` for the rest.
    """
    behavior = {**(behavior or {}), **({"generation": generation} if generation else {})}
    if generation_of(behavior) not in NATIVE:
        return [
            pack(
                version,
                folder,
                behavior,
                schema_level=schema_level,
                padding_files=padding_files,
                manifest=manifest,
            )
        ]
    rules = _rules(version, behavior, schema_level)
    parts = []
    for name in platforms:
        package_json = _platform_manifest(name, version) | (platform_manifest or {})
        files = _platform_package(package_json, rules, padding_files if name == this_platform() else 0)
        parts.append(_write(folder / f"t3code-t3-{name}-{version}.tgz", files))
    package_json = {
        "name": PACKAGE,
        "version": version,
        "license": "MIT",
        "bin": {"t3": PROGRAM},
        "optionalDependencies": {platform_package(name): version for name in PLATFORMS},
        **(manifest or {}),
    }
    return [*parts, _write(folder / f"{PACKAGE}-{version}.tgz", _launcher_package(package_json, rules))]


def unpack(parts: Iterable[Path], tree: Path) -> Path:
    """Unpack a release below `tree/node_modules` as npm installs it on this platform, and return the link to the program."""
    modules = tree / "node_modules"
    for part in parts:
        with tarfile.open(part) as archive:
            file = archive.extractfile("package/package.json")
            package_json = json.load(file) if file else {}
            if package_json["name"] not in (PACKAGE, platform_package()):
                continue
            place = modules / package_json["name"]
            place.mkdir(parents=True)
            archive.extractall(place)  # noqa: S202 - a trusted tarball; early 3.11 has no filters
        for entry in (place / "package").iterdir():
            entry.rename(place / entry.name)
        (place / "package").rmdir()
    program = modules / ".bin" / "t3"
    program.parent.mkdir()
    program.symlink_to(f"../{PACKAGE}/{PROGRAM}")
    return program


def _rules(version: str, behavior: dict[str, Any] | None, schema_level: int | None) -> dict[str, Any]:
    rules = dict(behavior or {})
    generation = generation_of(rules)
    if generation and generation not in LEVELS:
        raise ValueError(f"no generation {generation!r}: the generations are {', '.join(LEVELS)}")
    level = LEVELS[generation] if generation else default_level(version)
    rules["schema_level"] = schema_level or rules.get("schema_level") or level
    rules.setdefault("rules", [])
    return rules


def _platform_manifest(name: str, version: str) -> dict[str, Any]:
    system, _, machine = name.partition("-")
    dependency = json.loads((TEMPLATE / "native/node-pty/package.json").read_text())
    return {
        "name": platform_package(name),
        "version": version,
        "license": "MIT",
        "os": [system],
        "cpu": [machine],
        "dependencies": {dependency["name"]: dependency["version"]},
        "bundleDependencies": [dependency["name"]],
    }


def _node_package(
    package_json: dict[str, Any], rules: dict[str, Any], padding_files: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the files (name, content) of the package of A and B in a fixed order."""
    yield from [("behavior.json", _json(rules)), ("package.json", _json(package_json))]
    for name, path in _template(*ONE_PACKAGE):
        yield name, path.read_bytes()
    yield from _padding(padding_files)


def _platform_package(
    package_json: dict[str, Any], rules: dict[str, Any], padding_files: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a platform package. Packages of other platforms contain no working program."""
    yield "package.json", _json(package_json)
    if package_json["name"] != platform_package():
        yield from [("t3", b"a program for another machine\n"), (f"{NODE_PTY}/package.json", b'{"name": "node-pty"}\n')]
        return
    yield "behavior.json", _json(rules)
    for source, name in NATIVE_FILES.items():
        yield name, (TEMPLATE / source).read_bytes()
    yield f"resource-monitor/{this_platform()}/{MONITOR}", (TEMPLATE / "native" / MONITOR).read_bytes()
    for name, path in _template("lib/"):
        yield name, path.read_bytes()
    yield from _padding(padding_files)


def _launcher_package(package_json: dict[str, Any], rules: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield from [("package.json", _json(package_json)), ("dist/behavior.json", _json(rules))]
    for source, name in LAUNCHER_FILES.items():
        yield name, (TEMPLATE / source).read_bytes()


def _template(*parts: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(TEMPLATE.rglob("*")):
        name = path.relative_to(TEMPLATE).as_posix()
        if path.is_file() and name.startswith(parts):
            yield name, path


def _padding(files: int) -> Iterator[tuple[str, bytes]]:
    for number in range(files):
        yield f"padding/{number // 500:03}/{number:05}.js", f"module.exports = {number};\n".encode()


def _write(target: Path, files: Files) -> Path:
    """Write a tarball like npm's, by one rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in files:
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mtime = len(content), PACKED_AT
            entry.mode = 0o755 if name in EXECUTABLE or name.endswith(MONITOR) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    partial = target.with_suffix(".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(target)
    return target


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
