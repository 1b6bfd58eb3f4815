"""The real t3 is downloaded with npm, cached if its checksum matches, and reported in one line if it is not available."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from t3flow.sandbox import demo, real
from t3flow.sandbox.node import link_node
from t3flow.sandbox.packages import pack_release
from t3flow.sandbox.registry import Registry
from t3flow.sandbox.registry_server import RegistryServer


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Return a registry with a package of that name and version, for the sandbox's npm, and an empty cache."""
    found = Registry(tmp_path / "registry")
    server = RegistryServer(found)
    serving = Thread(target=server.serve_forever)
    serving.start()
    monkeypatch.setenv("PATH", f"{link_node(tmp_path / 'tools')}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", server.url)
    monkeypatch.setattr(real, "cache", lambda: tmp_path / "cache")
    yield found
    server.shutdown()
    server.server_close()
    serving.join()


def publish(registry: Registry) -> Path:
    """Publish a package of that name and version; return its tarball."""
    tarball = pack_release(real.VERSION, registry.folder / "packed", generation="C", platforms=["linux-x64"])[0]
    registry.publish(real.VERSION, tarball)
    return tarball


def test_it_is_fetched_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """npm downloads the package once; then the cache has it."""
    tarball = publish(registry)
    monkeypatch.setattr(real, "INTEGRITY", real._integrity(tarball))
    assert real.cached() is None
    found = real.fetch()
    assert found.read_bytes() == tarball.read_bytes()
    registry.set_faults(down=True)
    assert real.fetch() == real.cached() == found
    found.write_bytes(b"something else")
    assert real.cached() is None, "what was altered since is not taken"


def test_another_package_is_not_taken(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    """A package with another checksum is an error and is not cached."""
    publish(registry)
    assert real.main() == 1
    assert "was refused: its checksum is" in capsys.readouterr().err
    assert not real.cache().exists()


def test_it_cannot_be_had(
    registry: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry without the package causes one line and exit status 2, also in the demo."""
    assert real.main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"real: npm cannot fetch {real.PACKAGE}@{real.VERSION}: ")
    assert said.count("\n") == 1
    monkeypatch.setattr(demo, "is_inside", lambda: False)
    assert demo.main(with_real=True) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"t3flow demo --real: npm cannot fetch {real.PACKAGE}@{real.VERSION}: ")
    assert said.count("\n") == 1


def test_the_launcher_runs_what_comes_before_it(tmp_path: Path) -> None:
    """A prelude is at the start of the launcher's program, and in no other file."""
    for prelude in ("", "console.log('first');\n"):
        with tarfile.open(real.pack_launcher(tmp_path, prelude)) as packed:
            program = packed.extractfile("package/dist/bin.mjs")
            assert program is not None
            text = program.read().decode()
            assert text.startswith(prelude or "//")
            assert text.count("spawnSync(") == 1
