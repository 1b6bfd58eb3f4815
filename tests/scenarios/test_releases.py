"""Releases in parts, installed by the real npm: parts that are not there yet, settings that would leave some out, scripts that run or do not."""

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from origins import host_of, installed, of

from t3flow.host.npm import age, command, parts, registry, scripts, signatures
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.packages import platform_package

VERSION = "0.0.42"
PART = platform_package()
NATIVE = {"generation": "C"}


def package(folder: Path, name: str, version: str, files: dict[str, str] | None = None, **manifest: Any) -> Path:
    """Packs a small package."""
    folder.mkdir(exist_ok=True)
    target = folder / f"{name.replace('/', '-')}-{version}.tgz"
    described = {"package.json": json.dumps({"name": name, "version": version, **manifest}), **(files or {})}
    with tarfile.open(target, "w:gz") as archive:
        for path, text in described.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return target


@pytest.fixture
def bare(make_box: Callable[..., Sandbox]) -> Iterator[Sandbox]:
    """Return a sandbox with a registry that has one release in parts, and nothing else."""
    box = make_box(["ada"], start=False)
    box.start_registry()
    box.publish(VERSION, NATIVE)
    yield box
    shutil.rmtree(box.top / "scratch" / "one", ignore_errors=True)


def tree_of(box: Sandbox) -> Path:
    return box.top / "scratch" / "one" / "prefix" / "node_modules"


# Parts that are not there -------------------------------------------------------------------------------------------

NOT_THERE = [
    ({"status": 404, "package": PART}, f"its part for {parts.this_platform()}, {PART}@{VERSION}, is missing"),
    ({"without": VERSION, "package": PART}, f"its part for {parts.this_platform()}, {PART}@{VERSION}, is missing"),
    ({"status": 404, "only": "tarball", "package": PART}, "E404"),
    ({"status": 404, "only": "tarball", "package": "t3"}, "E404"),
    ({"lagging": VERSION, "package": "t3"}, f"ETARGET No matching version found for t3@{VERSION}"),
]


@pytest.mark.parametrize(
    ("faults", "reason"), NOT_THERE, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_a_part_that_is_not_there_yet(bare: Sandbox, faults: dict[str, Any], reason: str) -> None:
    """npm exits 0 without the platform's part; the release is incomplete all the same, and whole as soon as the part is there."""
    of(bare).set_faults(**faults)
    said = installed(bare, VERSION)
    assert str(said).startswith(f"IncompleteRelease: t3@{VERSION} is not complete in the registry yet"), said
    assert reason in str(said)
    of(bare).set_faults()
    found = installed(bare, VERSION)
    assert isinstance(found, dict), found
    assert list(found["parts"]) == [PART]


def test_a_tag_that_names_what_is_not_there_yet(bare: Sandbox) -> None:
    """The version is not in the registry's document; a tag that nobody has is another matter."""
    of(bare).set_faults(without=VERSION, package="t3")
    with host_of(bare) as host:
        with pytest.raises(command.IncompleteRelease, match=rf"the tag nightly names t3@{VERSION}, which is not in"):
            registry.version_of_tag(host, "nightly")
        with pytest.raises(command.PackageError, match="no dist-tag nosuch"):
            registry.version_of_tag(host, "nosuch")


def test_a_part_that_is_broken_is_not_a_part_that_is_missing(bare: Sandbox) -> None:
    """npm leaves it out just as silently: what is tampered with is refused, what cannot be fetched is tried again."""
    of(bare).set_faults(corrupt=True, package=PART)
    assert str(installed(bare, VERSION)).startswith(f"PackageError: npm cannot install {PART}@{VERSION}")
    of(bare).set_faults(status=503, only="tarball", package=PART)
    assert "RegistryUnreachable" in str(installed(bare, VERSION, npm__timeout_s="20"))


def test_other_platforms_parts_need_not_be_there(bare: Sandbox) -> None:
    """Neither those that the registry has, nor those that were never published."""
    for name in ("darwin-arm64", "win32-x64"):
        of(bare).unpublish(VERSION, platform_package(name))
    found = installed(bare, VERSION)
    assert isinstance(found, dict), found
    assert (list(found["parts"]), found["left_out"]) == ([PART], [])


@pytest.mark.parametrize(
    ("described", "taken"),
    [
        ({}, True),
        ({"os": ["linux"], "cpu": ["x64"]}, True),
        ({"os": "linux", "cpu": ["arm64", "x64"], "libc": ["glibc"]}, True),
        ({"os": ["!win32"]}, True),
        ({"os": ["any"]}, True),
        ({"os": ["darwin"]}, False),
        ({"os": ["!linux"]}, False),
        ({"cpu": ["arm64"]}, False),
        ({"libc": ["musl"]}, False),
    ],
)
def test_what_is_for_this_platform(described: dict[str, Any], taken: bool) -> None:
    assert parts.Platform("linux", "x64", "glibc").supports(described) is taken


@pytest.mark.parametrize(
    ("name", "may_support"),
    [
        ("@t3code/t3-linux-x64", True),
        ("@t3code/t3-linux-arm64", False),
        ("@t3code/t3-darwin-x64", False),
        ("@t3code/t3-linux-x64-musl", False),
        ("@t3code/t3-linux-x64-gnu", True),
        ("left-pad", True),
    ],
)
def test_what_a_name_alone_says_of_a_platform(name: str, may_support: bool) -> None:
    assert parts.Platform("linux", "x64", "glibc").may_support(name) is may_support


# Settings -----------------------------------------------------------------------------------------------------------

HARMFUL = {
    "omit": "optional", "optional": "false", "only": "prod", "ignore-scripts": "true", "allow-scripts": "nothing", "strict-allow-scripts": "true",
    "prefix": "/nowhere", "location": "global", "global": "true", "workspaces": "true", "workspace": "nowhere", "install-strategy": "linked",
    "os": "darwin", "cpu": "arm", "libc": "musl", "before": "2020-01-01", "min-release-age": "9999", "dry-run": "true", "package-lock": "false",
    "package-lock-only": "true", "offline": "true", "bin-links": "false", "script-shell": "/bin/false", "node-options": "--no-such-option",
    "save": "false", "json": "false", "force": "true", "engine-strict": "true",
}  # fmt: skip


@pytest.mark.parametrize("place", ["npmrc", "environment"])
def test_no_setting_changes_what_is_installed(bare: Sandbox, place: str) -> None:
    """Whatever the host's npm is set to: all that belongs to this platform is there, and scripts ran. The token still leads to the registry."""
    of(bare).publish("1.0.0", package(bare.top / "made", "helper", "1.0.0", scripts={"install": "echo built > built"}))
    bare.publish(VERSION, NATIVE, manifest={"dependencies": {"helper": "1.0.0"}})
    of(bare).require_token("the-token")
    lines = [f"//127.0.0.1:{bare.registry_port}/:_authToken=${{THE_TOKEN}}"]
    bare.environment["THE_TOKEN"] = "the-token"
    if place == "npmrc":
        lines += [f"{key} = {value}" for key, value in HARMFUL.items()]
    else:
        bare.environment |= {f"npm_config_{key.replace('-', '_')}": value for key, value in HARMFUL.items()}
    (bare.top / "home" / ".npmrc").write_text("\n".join(lines))
    found = installed(bare, VERSION, keep=True)
    assert isinstance(found, dict), found
    assert (tree_of(bare) / PART / "t3").exists()
    assert (tree_of(bare) / "helper" / "built").read_text() == "built\n"
    assert (tree_of(bare) / ".bin" / "t3").exists()


# Scripts ------------------------------------------------------------------------------------------------------------


def test_bundled_packages_scripts_do_not_run(bare: Sandbox) -> None:
    """As with `npm install`; `npm rebuild` would run node-pty's, which deletes what it brought compiled. A release without scripts runs none."""
    kept = Path(PART) / "node_modules/node-pty/build/Release/pty.node"
    found = installed(bare, VERSION, keep=True)
    assert isinstance(found, dict), found
    assert (tree_of(bare) / kept).exists()
    assert found["install_scripts"] == []
    later = "0.0.43"
    bare.publish(
        later, NATIVE, manifest={"scripts": {"preinstall": "echo first > order", "postinstall": "echo last >> order"}}
    )
    found = installed(bare, later, keep=True)
    assert isinstance(found, dict), found
    assert (tree_of(bare) / "t3" / "order").read_text() == "first\nlast\n"
    assert (tree_of(bare) / kept).exists()
    assert found["install_scripts"] == ["t3"]


def test_an_optional_package_whose_script_fails_is_left_out_and_named(bare: Sandbox) -> None:
    """As npm leaves it out; where there is no other reason to refuse the release it is taken."""
    for name, script in (("maybe", "exit 3"), ("surely", "echo yes > yes")):
        of(bare).publish("1.0.0", package(bare.top / "made", name, "1.0.0", scripts={"install": script}))
    inner = package(
        bare.top / "made", "helper", "1.0.0", optionalDependencies={"maybe": "1.0.0", "surely": "1.0.0", "gone": "1"}
    )
    of(bare).publish("1.0.0", inner)
    bare.publish(VERSION, NATIVE, manifest={"dependencies": {"helper": "1.0.0"}})
    found = installed(bare, VERSION, keep=True)
    assert isinstance(found, dict), found
    assert found["left_out"] == ["gone@1", "maybe@1.0.0"]
    assert not (tree_of(bare) / "maybe").exists()
    assert (tree_of(bare) / "surely" / "yes").exists()


def test_the_reason_is_the_scripts_own_line(bare: Sandbox) -> None:
    """Not npm's hint at a log file that is gone."""
    secret = "npm_" + "a1" * 18
    script = f"echo begins; echo 'fatal: there is no compiler, asked with {secret}' >&2; echo trailing >&2; exit 7"
    bare.publish(VERSION, NATIVE, manifest={"scripts": {"install": script}})
    said = str(installed(bare, VERSION))
    assert f"an install script of t3@{VERSION} fails: t3 (" in said
    assert "ends with exit code 7: fatal: there is no compiler, asked with [hidden]" in said
    assert secret not in said
    assert "complete log" not in said


def wrap_npm(box: Sandbox, script: str) -> None:
    """Put a script in the place of the sandbox's npm, with "$real" for the real one."""
    npm = box.top / "tools" / "npm"
    real = npm.rename(npm.with_name("real-npm"))
    npm.write_text(f'#!/bin/sh\nreal="{real}"\n{script}\nexec "$real" "$@"\n')
    npm.chmod(0o755)


def test_npm_that_runs_no_scripts_is_found_out(bare: Sandbox) -> None:
    """It exits 0: what the script was to make would be missing in the first user's server."""
    bare.publish(VERSION, NATIVE, manifest={"scripts": {"install": "echo built > built"}})
    wrap_npm(bare, '[ "$1" = rebuild ] && exec "$real" "$@" --ignore-scripts=true')
    assert f"npm did not run the install scripts of t3@{VERSION}" in str(installed(bare, VERSION))


def test_npm_that_prints_lists(bare: Sandbox) -> None:
    """As npm 12 does for whatever `view` is asked."""
    wrap_npm(bare, '[ "$1" = view ] && out=$("$real" "$@") && { [ -z "$out" ] || echo "[$out]"; exit 0; }')
    found = installed(bare, VERSION)
    assert isinstance(found, dict), found
    assert list(found["parts"]) == [PART]


def test_which_packages_scripts_npm_runs(tmp_path: Path) -> None:
    """Those that the registry or a binding.gyp announces, of packages that are there and not bundled."""

    def there(place: str, *, gyp: bool = False, **described: Any) -> None:
        (tmp_path / place).mkdir(parents=True)
        name = place.rpartition("node_modules/")[2]
        (tmp_path / place / "package.json").write_text(json.dumps({"name": name, "version": "1.0.0", **described}))
        if gyp:
            (tmp_path / place / "binding.gyp").touch()

    runs = {"scripts": {"install": "make"}}
    there("node_modules/a", **runs)
    there("node_modules/a/node_modules/bundled", **runs)
    there("node_modules/gyp", gyp=True)
    there("node_modules/no-gyp", gyp=True, gypfile=False)
    there("node_modules/empty", scripts={})
    there("node_modules/silent", **runs)
    there("node_modules/broken")
    (tmp_path / "node_modules/broken/package.json").write_text("[")
    noted = {"hasInstallScript": True}
    packages: parts.Packages = {
        "node_modules/a": noted,
        "node_modules/a/node_modules/bundled": {**noted, "inBundle": True},
        "node_modules/gyp": {"optional": True},
        "node_modules/no-gyp": {},
        "node_modules/empty": noted,
        "node_modules/silent": {},
        "node_modules/broken": noted,
        "node_modules/gone": noted,
        "node_modules/linked": {**noted, "link": True},
    }
    found = scripts.find_scripts(tmp_path, packages)
    assert [(each.place, each.spec, each.optional) for each in found] == [
        ("node_modules/a", "a@1.0.0", False),
        ("node_modules/gyp", "gyp@1.0.0", True),
    ]


# Origin -------------------------------------------------------------------------------------------------------------


def test_origin_covers_the_parts(bare: Sandbox) -> None:
    """Checksum, signature and attestation of the platform's part count as those of the package itself; its age, too."""
    bare.enable_signatures()
    of(bare).attest(VERSION)
    of(bare).attest(VERSION, PART)
    found = installed(bare, VERSION)
    assert isinstance(found, dict), found
    assert found["signatures"] == signatures.VERIFIED
    assert found["parts"][PART]["provenance"]
    assert found["parts"][PART]["integrity"].startswith("sha512-")
    for faults, reason in (
        ({"unsigned": True}, f"no signature of {PART}@{VERSION}"),
        ({"bad_attestation": True}, f"the attestation of {PART}@{VERSION} is invalid"),
        ({"other_integrity": True}, "npm installed integrity"),
    ):
        of(bare).set_faults(**faults, package=PART)
        assert reason in str(installed(bare, VERSION))


def test_a_release_is_as_old_as_its_youngest_part(bare: Sandbox) -> None:
    state = json.loads((bare.top / "registry/registry.json").read_text())
    for each in state["packages"].values():
        each["times"][VERSION] = "2026-01-01T00:00:00.000Z"
    (bare.top / "registry/registry.json").write_text(json.dumps(state))

    def why() -> str:
        with host_of(bare, track__min_age_hours="1") as host:
            return age.too_young(host, VERSION)

    assert why() == ""
    state["packages"][PART]["times"][VERSION] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (bare.top / "registry/registry.json").write_text(json.dumps(state))
    assert f"{PART}@{VERSION}, a part of {VERSION}, is 0.0 h old" in why()
    of(bare).set_faults(without=VERSION, package=PART)
    assert "is not in the registry yet" in why()


# Programs that are gone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["npm", "node"])
def test_npm_or_node_is_gone(bare: Sandbox, gone: str) -> None:
    tools = bare.top / "some"
    tools.mkdir()
    for name in {"npm", "node"} - {gone}:
        (tools / name).symlink_to(bare.top / "tools" / name)
    for name in ("setpriv", "sh", "rm", "env"):
        (tools / name).symlink_to(shutil.which(name) or os.devnull)
    bare.environment["PATH"] = str(tools)
    said = str(installed(bare, VERSION))
    assert said.startswith(f"ProgramMissing: {gone} is not on PATH: install"), said
