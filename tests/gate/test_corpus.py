"""The gate stops every bad build of the corpus by the check that is named for it, and passes every good one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_builds import BAD
from builds import VERSIONS, Build, Package
from corpus import tables
from good_builds import GOOD, PACKAGES, UNKNOWN
from seeds import seed
from slotting import make_slot, staged

from t3flow import T3flowError
from t3flow.gate import trial_run
from t3flow.host import slots
from t3flow.host.cells import cells
from t3flow.host.host import Host
from t3flow.host.npm import packages
from t3flow.host.slots import creation
from t3flow.sandbox.host import Sandbox
from t3flow.t3.files import FIRST_DATABASE, SECOND_DATABASE

ALL_BAD = [build for builds in BAD.values() for build in builds]
DOCUMENT = Path(__file__).parents[2] / "docs" / "gate.md"


def try_on(host: Host, build: Build, folder: Path, scratch: Path) -> trial_run.Verdict:
    """Try a build and return the verdict."""
    given = cells.isolation(host)
    if build.cell and not given.is_available:
        pytest.skip(f"this host gives no namespaces: {given.missing}")
    generation = {"generation": build.generation} if build.generation else {"schema_level": 32}
    behavior = {**generation, "boot_window_ms": 100, **build.behavior, "rules": build.rules}
    version = build.version or VERSIONS[build.generation]
    slot = make_slot(host, version, folder / "build", behavior, build.without)
    return trial_run.run_trial(host, given, slot, version, scratch, build.seed, seed(build.seed, folder))


def told(verdict: trial_run.Verdict) -> str:
    """Return a verdict as text for a failing test."""
    return str({**verdict, "schema": sorted(verdict["schema"])})


def settings_of(build: Build) -> dict[str, Any]:
    """Return the settings of the test's host for a build."""
    return {
        "gate": {"user": "nobody", "start_timeout_s": build.start_timeout_s},
        "dispatch": {"cookie": "", **build.settings},
    }


@pytest.mark.parametrize("build", ALL_BAD, ids=lambda build: build.name)
def test_bad(
    build: Build, make_host: Callable[..., Host], tmp_path: Path, scratch: Path, record_property: Callable[..., None]
) -> None:
    """The gate stops it for the right reason."""
    verdict = try_on(make_host(**settings_of(build)), build, tmp_path, scratch)
    record_property("gate", "wrong" if verdict["verdict"] == "pass" else "right")
    assert verdict["verdict"] == "fail", told(verdict)
    assert (verdict["checks"] or [{"name": ""}])[-1]["name"] in build.fails.split(), told(verdict)
    assert re.search(build.says, verdict["failed"]), told(verdict)
    if build.start_timeout_s < Build("", "", []).start_timeout_s:
        assert verdict["slow"], "a timeout is tried again without other trials"


@pytest.mark.parametrize("build", GOOD, ids=lambda build: build.name)
def test_good(
    build: Build, make_host: Callable[..., Host], tmp_path: Path, scratch: Path, record_property: Callable[..., None]
) -> None:
    """The gate passes it after making every check."""
    verdict = try_on(make_host(**settings_of(build)), build, tmp_path, scratch)
    record_property("gate", "right" if verdict["verdict"] == "pass" else "wrong")
    assert (verdict["verdict"], verdict["failed"]) == ("pass", ""), told(verdict)
    assert {check["name"] for check in verdict["checks"]} >= CHECKS
    assert all(f"| `{check['name']}` |" in DOCUMENT.read_text() for check in verdict["checks"])


@pytest.mark.parametrize("build", UNKNOWN, ids=lambda build: build.name)
def test_unknown(
    build: Build, make_host: Callable[..., Host], tmp_path: Path, scratch: Path, record_property: Callable[..., None]
) -> None:
    """The verdict is inconclusive, with one line that says what is unknown."""
    verdict = try_on(make_host(**settings_of(build)), build, tmp_path, scratch)
    record_property("gate", "right" if verdict["verdict"] == "inconclusive" else "wrong")
    assert verdict["verdict"] == "inconclusive", told(verdict)
    assert verdict["checks"][-1]["name"] in build.fails.split(), told(verdict)
    assert re.search(build.says, verdict["unknown"]), told(verdict)
    assert (verdict["unknown"], "\n" in verdict["unknown"]) == (verdict["failed"], False)


CHECKS = {name for build in ALL_BAD for name in build.fails.split()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Provide a registry and a host that installs from it."""
    box = Sandbox(tmp_path_factory.mktemp("registry"), [])
    box.start_registry()
    yield box
    box.close()


@pytest.mark.parametrize("package", [Package("plain", "", ""), *PACKAGES], ids=lambda package: package.name)
def test_package(package: Package, registry: Sandbox, record_property: Callable[..., None]) -> None:
    """A malformed package never becomes a slot; a plain one, as the control, does."""
    number = [each.name for each in PACKAGES].index(package.name) + 1 if package in PACKAGES else 0
    version = f"0.0.25-nightly.20260609.{600 + number}"
    scripts = {"scripts": {"install": package.script}} if package.script else {}
    registry.publish(version, manifest={**scripts, **package.manifest})
    with staged(registry, version) as (host, tree):
        try:
            packages.install(host, version, tree.parent)
            creation.create_slot(host.settings.paths.versions_dir, version, tree, packages.node_path(), {})
            said = ""
        except T3flowError as error:
            said = str(error)
        has_slot = slots.has_slot(host.settings.paths.versions_dir, version)
    if package not in PACKAGES:
        assert (has_slot, said) == (True, "")
        return
    record_property("gate", "wrong" if has_slot else "right")
    assert not has_slot
    assert package.caught in said


@pytest.mark.parametrize(("in_use", "verdict"), [([FIRST_DATABASE], "inconclusive"), ([SECOND_DATABASE], "pass")])
def test_a_second_database_that_was_left_behind_moves_nobody(
    in_use: list[str], verdict: str, make_host: Callable[..., Host], tmp_path: Path, scratch: Path
) -> None:
    """A newer t3 of the user's own created it once, and the version in use continued with the first: the user would miss newer data.

    A user whose version already serves the second database is not held back.
    """
    host = make_host(gate={"user": "nobody"}, dispatch={"cookie": ""})
    slot = make_slot(host, VERSIONS["D"], tmp_path / "build", {"generation": "D", "boot_window_ms": 100})
    given, state = cells.isolation(host), seed("stale", tmp_path)
    found = trial_run.run_trial(host, given, slot, VERSIONS["D"], scratch, "ada", state, in_use=in_use)
    assert (found["verdict"], found["unknown"]) == (verdict, ""), told(found)
    assert (f"move {SECOND_DATABASE}" in found["failed"]) == (verdict == "inconclusive"), told(found)


def test_the_corpus_is_large_enough() -> None:
    """No two builds have the same rules on the same database."""
    bad = [repr(build[2:3] + build[5:]) for build in ALL_BAD] + [repr(package[3:]) for package in PACKAGES]
    good = [repr(build[2:3] + build[5:]) for build in GOOD]
    assert len(set(bad)) == len(bad) >= 91 + 25
    assert len(set(good)) == len(good) >= 29 + 12


def test_the_tables_of_the_document_are_those_of_the_corpus() -> None:
    assert tables() in DOCUMENT.read_text(), "replace the tables by the output of python tests/gate/corpus.py"


def test_a_host_without_namespaces_needs_the_cookie_s_own_name(
    make_host: Callable[..., Host], tmp_path: Path, scratch: Path
) -> None:
    """A server on loopback uses another cookie name (an incident of 17 days). Without cells, the server itself names its cookie."""
    build = next(build for build in GOOD if build.name == "cookie-by-port")
    host = make_host()
    slot = make_slot(host, build.version, tmp_path / "build", {"schema_level": 32, "rules": []})
    nothing = cells.Isolation([], "not asked for")
    verdict = trial_run.run_trial(host, nothing, slot, build.version, scratch, "real", seed("real", tmp_path))
    assert (verdict["verdict"], verdict["failed"]) == ("pass", ""), told(verdict)
    exchanged = next(check["evidence"] for check in verdict["checks"] if check["name"] == "exchanges")
    assert "t3_session_" in exchanged
