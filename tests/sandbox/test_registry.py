"""The local registry with the real npm client, healthy and with each fault."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from t3flow.sandbox import signing
from t3flow.sandbox.node import link_node
from t3flow.sandbox.packages import pack
from t3flow.sandbox.registry import Registry


@pytest.fixture
def npm(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Return npm with a registry that serves `tmp_path/registry`."""
    words = [sys.executable, "-m", "t3flow.sandbox.registry_server", "--folder", str(tmp_path / "registry")]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().split()[-1]
    tools = link_node(tmp_path / "tools")
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "npm_config_registry": f"{url}/",
        "npm_config_fetch_retries": "0",
        "npm_config_fetch_timeout": "1500",
        "npm_config_cache": str(tmp_path / "cache"),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["npm", *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    yield run
    server.terminate()
    server.wait()


def publish(top: Path, version: str, tag: str | None = "nightly", **more: object) -> None:
    Registry(top / "registry").publish(version, pack(version, top / "packed", **more), tag=tag)  # type: ignore[arg-type]


def test_tags_versions_and_times(npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    publish(tmp_path, "0.0.24", "latest")
    publish(tmp_path, "0.0.25-nightly.20260609.1")
    assert json.loads(npm("view", "t3@nightly", "version", "--json").stdout) == "0.0.25-nightly.20260609.1"
    assert json.loads(npm("view", "t3", "dist-tags", "--json").stdout) == {
        "latest": "0.0.24",
        "nightly": "0.0.25-nightly.20260609.1",
    }
    assert set(json.loads(npm("view", "t3", "time", "--json").stdout)) >= {"0.0.24", "0.0.25-nightly.20260609.1"}
    assert "E404" in npm("view", "t3@nosuch", "version", "--json").stdout


def test_an_install_runs(npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    script = {"scripts": {"install": "node -e \"require('fs').writeFileSync('installed', 'yes')\""}}
    publish(tmp_path, "0.0.25-nightly.1", manifest=script)
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    assert npm("install", "--prefix", str(prefix), "t3@nightly").returncode == 0
    assert (prefix / "node_modules/t3/installed").read_text() == "yes"
    assert npm("exec", "--prefix", str(prefix), "--", "t3", "--version").stdout == "t3 v0.0.25-nightly.1\n"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"down": True}, ("ECONNRESET", "socket hang up", "network")),
        ({"hang": True}, ("timeout", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT")),
        ({"status": 503}, ("503",)),
        ({"html": True}, ("JSON", "invalid", "Unexpected")),
        ({"corrupt": True}, ("EINTEGRITY",)),
        (
            {"truncate": True, "only": "tarball"},
            ("EINTEGRITY", "Z_BUF", "TAR_BAD", "aborted", "unexpected end", "Premature", "ECONNRESET"),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_faults(
    npm: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    fault: dict[str, object],
    said: tuple[str, ...],
) -> None:
    publish(tmp_path, "0.0.25-nightly.1")
    Registry(tmp_path / "registry").set_faults(**fault)
    (tmp_path / "prefix").mkdir()
    finished = npm("install", "--prefix", str(tmp_path / "prefix"), "t3@nightly")
    assert finished.returncode != 0
    assert any(word in finished.stderr + finished.stdout for word in said), finished.stderr
    Registry(tmp_path / "registry").set_faults()
    assert npm("install", "--prefix", str(tmp_path / "prefix"), "t3@nightly").returncode == 0


# Several packages ---------------------------------------------------------------------------------------------------

PART = "@t3code/t3-linux-x64"
VERSION = "0.0.42"


def package(folder: Path, name: str, version: str, **manifest: object) -> Path:
    """Pack a package of one file."""
    folder.mkdir(exist_ok=True)
    target = folder / f"{name.replace('/', '-')}-{version}.tgz"
    content = json.dumps({"name": name, "version": version, **manifest}).encode()
    with tarfile.open(target, "w:gz") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return target


@pytest.fixture
def in_parts(tmp_path: Path) -> Registry:
    """Return a registry with a signed and attested release of two packages; packages of other platforms are missing."""
    registry = Registry(tmp_path / "registry")
    parts = {PART: VERSION, "@t3code/t3-darwin-arm64": VERSION}
    registry.publish(VERSION, package(tmp_path / "made", PART, VERSION, os=["linux"]))
    main = package(tmp_path / "made", "t3", VERSION, optionalDependencies=parts)
    registry.publish(VERSION, main, tag="nightly")
    registry.enable_signatures()
    registry.attest(VERSION)
    registry.attest(VERSION, PART)
    (tmp_path / "prefix").mkdir()
    return registry


def test_a_release_in_parts(
    npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, in_parts: Registry
) -> None:
    """npm installs the package of this platform and verifies both; each package has its own document."""
    prefix = ["--prefix", str(tmp_path / "prefix")]
    signing.trust(tmp_path / "tools/npm", in_parts.keys.parent, npm("config", "get", "registry").stdout.strip())
    finished = npm("install", *prefix, "t3@nightly")
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "prefix/node_modules" / PART / "package.json").exists()
    assert "verified attestations" in npm("audit", "signatures", *prefix).stdout
    assert json.loads(npm("view", f"{PART}@{VERSION}", "versions", "--json").stdout) in (VERSION, [VERSION])
    assert json.loads(npm("view", f"t3@{VERSION}", "dist-tags", "--json").stdout) == {"nightly": VERSION}
    in_parts.set_faults(bad_attestation=True, package=PART)
    said = json.loads(npm("audit", "signatures", *prefix, "--prefer-online", "--json").stdout)
    assert [each["name"] for each in said["invalid"]] == [PART]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 404, "package": PART}, ""),
        ({"without": VERSION, "package": PART}, ""),
        ({"status": 404, "only": "tarball", "package": PART}, ""),
        ({"status": 404, "only": "tarball", "package": "t3"}, "E404"),
        ({"lagging": VERSION, "package": "t3"}, "ETARGET"),
    ],
)
def test_a_part_that_is_not_there_yet(
    npm: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    in_parts: Registry,
    fault: dict[str, object],
    code: str,
) -> None:
    """npm silently skips an unavailable platform package and fails for an unavailable main package, until the fault ends."""
    in_parts.set_faults(**fault)
    assert json.loads(npm("view", "t3@nightly", "version", "--json").stdout) == VERSION
    finished = npm("install", "--prefix", str(tmp_path / "prefix"), f"t3@{VERSION}")
    assert (finished.returncode != 0, code in finished.stderr) == (bool(code), True), finished.stderr
    assert not (tmp_path / "prefix/node_modules" / PART).exists()
    in_parts.set_faults(**fault, until=time.time())
    assert npm("install", "--prefix", str(tmp_path / "prefix"), f"t3@{VERSION}", "--prefer-online").returncode == 0


def test_faults_of_several_packages(in_parts: Registry) -> None:
    in_parts.set_faults(status=404, package=PART)
    in_parts.add_faults(no_times=True, package="t3")
    assert in_parts.faults(PART, "tarball") == {"status": 404}
    assert in_parts.faults("t3", "packument") == {"no_times": True}
    assert in_parts.faults("", "packument") == {}
    in_parts.unpublish(VERSION, PART)
    assert (in_parts.versions(PART), in_parts.versions()) == ([], [VERSION])
    with pytest.raises(ValueError, match="unknown faults sick"):
        in_parts.add_faults(sick=True)


def test_a_slow_registry_is_slow(npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    publish(tmp_path, "0.0.25-nightly.1")
    Registry(tmp_path / "registry").set_faults(slow_seconds=1)
    began = time.monotonic()
    assert npm("view", "t3@nightly", "version").returncode == 0
    assert time.monotonic() - began > 1


def test_npm_verifies_what_the_registry_signs(
    npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """npm's own check accepts signatures and attestations by the sandbox's keys, and refuses the faults."""
    version = "0.0.25-nightly.1"
    registry = Registry(tmp_path / "registry")
    publish(tmp_path, version)
    registry.enable_signatures()
    registry.attest(version)
    signing.trust(tmp_path / "tools" / "npm", registry.keys.parent, npm("config", "get", "registry").stdout.strip())
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    assert npm("install", "--prefix", str(prefix), f"t3@{version}").returncode == 0

    def audit(**faults: object) -> tuple[int, list[str], list[str]]:
        registry.set_faults(**faults)
        finished = npm("audit", "signatures", "--prefix", str(prefix), "--prefer-online", "--json")
        said = json.loads(finished.stdout)
        return (
            finished.returncode,
            [each["name"] for each in said["missing"]],
            [each["code"] for each in said["invalid"]],
        )

    assert audit() == (0, [], [])
    assert audit(unsigned=True) == (1, ["t3"], [])
    assert audit(bad_signature=True) == (1, [], ["EINTEGRITYSIGNATURE"])
    assert audit(bad_attestation=True) == (1, [], ["EATTESTATIONVERIFY"])


def test_what_is_published_later_is_signed_with_the_same_keys(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish(tmp_path, "0.0.25-nightly.1")
    assert "signatures" not in registry.packument("")["versions"]["0.0.25-nightly.1"]["dist"]
    registry.enable_signatures()
    publish(tmp_path, "0.0.25-nightly.2")
    registry.enable_signatures()
    ids = [entry["dist"]["signatures"][0]["keyid"] for entry in registry.packument("")["versions"].values()]
    assert ids == [json.loads(registry.keys.read_text())["keys"][0]["keyid"]] * 2


def test_a_registry_that_wants_a_token(npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    publish(tmp_path, "0.0.25-nightly.1")
    registry = Registry(tmp_path / "registry")
    registry.require_token("a-token")
    assert "a-token" not in "".join(path.read_text() for path in registry.folder.glob("*.json"))
    assert "E401" in npm("view", "t3@nightly", "version").stderr
    place = npm("config", "get", "registry").stdout.strip().removeprefix("http:")
    (tmp_path / ".npmrc").write_text(f"{place}:_authToken=another\n")
    assert "E401" in npm("view", "t3@nightly", "version").stderr
    (tmp_path / ".npmrc").write_text(f"{place}:_authToken=a-token\n")
    assert npm("view", "t3@nightly", "version").stdout == "0.0.25-nightly.1\n"
