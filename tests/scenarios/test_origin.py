"""Where a version comes from: its age, signatures and checksum, and what is new about it; the registry, npm and the keys are real."""

import base64
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from origins import host_of, installed, of
from scenes import FIRST, NEXT, bump

from t3flow.host.npm import age, signatures
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.packages import pack

SCRIPT = {"scripts": {"install": "node -e 0"}}


@pytest.fixture
def bare(make_box: Callable[..., Sandbox]) -> Sandbox:
    """Return a sandbox with a registry that has one version, and nothing else."""
    box = make_box(["ada"], start=False, extra="")
    box.start_registry()
    box.publish(NEXT)
    return box


def published(box: Sandbox, version: str, moment: datetime) -> None:
    """Publish a good build that is from then."""
    box.publish(version, {"schema_level": 32})
    of(box).publish(version, of(box).tarball(version), tag="nightly", published=moment)


# Age ----------------------------------------------------------------------------------------------------------------


def test_a_young_release_waits(make_box: Callable[..., Sandbox]) -> None:
    """Nothing is fetched, nothing is kept; named by a person it is tried."""
    box = make_box(["ada"], consumer=False)
    box.environment["T3FLOW_TRACK__MIN_AGE_HOURS"] = "24"
    box.start_consumer()
    published(box, NEXT, datetime.now(UTC) - timedelta(hours=1))
    waited = box.t3flow("enqueue", "bump", "--wait", "--json")
    said = json.loads(waited.stdout)
    assert (waited.returncode, said["status"], said["outcome"]) == (0, "succeeded", "too_young")
    enough = datetime.now().astimezone() + timedelta(hours=23)
    assert f"{NEXT} is 1.0 h old and track.min_age_hours requires 24 h" in said["reason"]
    assert f"{enough:%Y-%m-%d }" in said["reason"]
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    assert box.document("status")["rejected"] == {}
    assert bump(box, "--target", NEXT, "--dry-run")["outcome"] == "dry_run_passed"


def test_an_age_that_nobody_knows_is_no_age(bare: Sandbox) -> None:
    now = datetime.now(UTC)

    def why(hours: str = "1") -> str:
        with host_of(bare, track__min_age_hours=hours) as host:
            return age.too_young(host, NEXT)

    assert "0.0 h old" in why()
    assert why("0") == ""
    of(bare).set_faults(no_times=True)
    assert "does not say when it was published" in why()
    of(bare).set_faults()
    published(bare, NEXT, now + timedelta(hours=3))
    assert "in the future" in why()
    published(bare, NEXT, now - timedelta(minutes=61))
    assert why() == ""
    state = json.loads((bare.top / "registry/registry.json").read_text())
    for odd in ("soon", "2026-06-09T01:02:03", 12, {}, [1]):
        state["packages"]["t3"]["times"][NEXT] = odd
        if isinstance(odd, str):
            (bare.top / "registry/registry.json").write_text(json.dumps(state))
            assert "gives it the time" in why()
        assert age._epoch(odd) is None


# Signatures and integrity -------------------------------------------------------------------------------------------


def test_a_registry_without_keys(bare: Sandbox) -> None:
    for wanted, expected in (("auto", signatures.NO_KEYS), ("off", signatures.OFF)):
        found = installed(bare, npm__verify_signatures=wanted)
        assert isinstance(found, dict), found
        assert found["signatures"] == expected
        assert found["integrity"].startswith("sha512-")
    refused = installed(bare, npm__verify_signatures="require")
    assert "has no signing keys" in str(refused)


@pytest.mark.parametrize("wanted", ["auto", "require", "off"])
def test_a_registry_that_signs(bare: Sandbox, wanted: str) -> None:
    """Good signatures and attestations verify; one that is missing or somebody else's refuses, unless nobody wants to know."""
    bare.enable_signatures()
    of(bare).attest(NEXT)
    found = installed(bare, npm__verify_signatures=wanted)
    assert isinstance(found, dict), found
    assert found["provenance"]
    assert found["signatures"] == (signatures.OFF if wanted == "off" else signatures.VERIFIED)
    for fault, reason in (
        ("unsigned", f"no signature of t3@{NEXT}"),
        ("bad_signature", f"the signature of t3@{NEXT} is invalid"),
        ("bad_attestation", f"the attestation of t3@{NEXT} is invalid"),
    ):
        if wanted != "auto" and fault != "unsigned":
            continue
        of(bare).set_faults(**{fault: True})
        found = installed(bare, npm__verify_signatures=wanted)
        assert isinstance(found, dict) if wanted == "off" else reason in str(found), (fault, found)


def test_keys_that_cannot_be_had_are_no_verdict(bare: Sandbox) -> None:
    """The registry has keys, and npm cannot reach sigstore's: neither passed nor refused, but tried again later."""
    of(bare).enable_signatures()
    found = installed(bare)
    assert "RegistryUnreachable: npm cannot check the signatures" in str(found)
    assert 'npm.verify_signatures = "off"' in str(found)


def test_integrity_is_always_checked(bare: Sandbox) -> None:
    of(bare).set_faults(no_integrity=True)
    assert "the registry has no integrity" in str(installed(bare, npm__verify_signatures="off"))
    of(bare).set_faults(other_integrity=True)
    assert "the registry says sha512-AAAA" in str(installed(bare, npm__verify_signatures="off"))


# What is new --------------------------------------------------------------------------------------------------------


def test_a_new_install_script_and_a_lost_provenance_are_reported(make_box: Callable[..., Sandbox]) -> None:
    """In the run's result, by --wait, by show, in the log, in the slot; a build that is as the last one says nothing."""
    box = make_box(["ada"], start=False)
    of(box).attest(FIRST)
    box.start(FIRST, behavior={"schema_level": 30})
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32}, manifest=SCRIPT)
    notices = [
        f"{NEXT} has install scripts that {FIRST} does not have: t3",
        f"{NEXT} has no provenance, {FIRST} has: its builder is unknown",
    ]
    assert bump(box, "--dry-run")["notices"] == notices
    waited = box.t3flow("enqueue", "bump", "--wait")
    assert waited.stdout.startswith("updated")
    run = [each["run"] for each in box.document("runs") if each["workflow"] == "bump"][-1]
    shown = box.t3flow("show", run).stdout
    log = (box.top / "log" / "consumer.log").read_text()
    for notice in notices:
        assert f"notice: {notice}" in waited.stdout
        assert notice in waited.stderr
        assert notice in shown
        assert any("WARNING" in line and notice in line for line in log.splitlines())
    ended = box.document("show", run)["events"][-1]
    assert ended["data"]["notices"] == notices
    kept = json.loads((box.top / "opt/t3/versions" / NEXT / ".t3flow.json").read_text())["origin"]
    assert (kept["install_scripts"], kept["provenance"], kept["signatures"]) == (["t3"], False, signatures.NO_KEYS)
    later = f"{NEXT}2"
    box.publish(later, {"schema_level": 32}, manifest=SCRIPT)
    said = bump(box, "--dry-run")
    assert (said["outcome"], said["notices"]) == ("dry_run_passed", [])


def test_a_signature_that_is_wrong_ends_the_run(make_box: Callable[..., Sandbox]) -> None:
    """Nobody is touched and no slot is left; the same version, signed, is taken."""
    box = make_box(["ada"])
    box.enable_signatures()
    box.publish(NEXT, {"schema_level": 32})
    of(box).set_faults(bad_signature=True)
    said = bump(box)
    assert said["outcome"] == "error", said
    assert f"the signature of t3@{NEXT} is invalid" in said["reason"]
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    of(box).set_faults()
    waited = box.t3flow("enqueue", "bump", "--wait", "--dry-run")
    assert waited.stdout.startswith("dry_run_passed")
    assert "signatures verified" in waited.stderr


# A token that somebody looks for ------------------------------------------------------------------------------------

THIEF = r"""
const fs = require('fs'), os = require('os'), path = require('path')
const wanted = /planted-[0-9a-f]{32}/g, found = []
const look = (where, text) => { for (const hit of String(text).match(wanted) || []) found.push([where, hit]) }
const read = (file) => { try { look(file, fs.readFileSync(file, 'latin1')) } catch {} }
let left = 20000
const walk = (folder, depth) => {
  let entries = []
  try { entries = fs.readdirSync(folder, { withFileTypes: true }) } catch {}
  for (const entry of entries) {
    const file = path.join(folder, entry.name)
    if (entry.isDirectory() && depth > 0) walk(file, depth - 1)
    else if (entry.isFile() && left-- > 0) { try { if (fs.statSync(file).size < 1e6) read(file) } catch {} }
  }
}
look('environment', JSON.stringify(process.env))
walk(process.cwd(), 3)
walk(path.resolve(process.cwd(), '../../../..'), 4)
for (const folder of [os.homedir(), TOP]) walk(folder, 6)
for (const folder of ['/tmp', '/var/tmp', os.tmpdir()]) walk(folder, 1)
read('/etc/npmrc'); read('/root/.npmrc')
for (const pid of fs.readdirSync('/proc')) if (/^\d+$/.test(pid)) for (const name of ['environ', 'cmdline']) read(`/proc/${pid}/${name}`)
fs.writeFileSync('found.json', JSON.stringify(found))
"""


def thief(top: Path, decoy: str) -> dict[str, Any]:
    """Return what a package.json says to have its install script look for tokens, and one that it is meant to find."""
    program = base64.b64encode(THIEF.replace("TOP", json.dumps(str(top))).encode()).decode()
    return {"scripts": {"install": f"DECOY={decoy} node -e \"eval(Buffer.from('{program}', 'base64').toString())\""}}


@pytest.mark.parametrize("place", ["npmrc", "environment"])
def test_no_install_script_finds_the_token_of_the_registry(make_box: Callable[..., Sandbox], place: str) -> None:
    """Neither in the environment nor in files nor in /proc, though it looks well: it finds what the package itself brings, in all three."""
    token, decoy = f"planted-{secrets.token_hex(16)}", f"planted-{secrets.token_hex(16)}"
    box = make_box(["ada"], consumer=False)
    key = f"//127.0.0.1:{box.registry_port}/:_authToken"
    in_environment = "${npm_config_their_token}"
    (box.top / "home" / ".npmrc").write_text(f"{key}={token if place == 'npmrc' else in_environment}\n")
    if place == "environment":
        box.environment["npm_config_their_token"] = token
    of(box).require_token(token)
    box.start_consumer()
    of(box).publish(NEXT, pack(NEXT, box.top / "packed", manifest=thief(box.top, decoy)), tag="nightly")
    said = bump(box)
    assert said["outcome"] == "updated", said
    found = json.loads((box.top / "opt/t3/versions" / NEXT / "node_modules/t3/found.json").read_text())
    places = [where for where, hit in found if hit == decoy]
    assert "environment" in places
    assert any(where.startswith("/proc/") for where in places)
    assert any(where.endswith("node_modules/t3/package.json") for where in places)
    assert [where for where, hit in found if hit == token] == []
    noted = "".join(box.journal.query("select group_concat(data) from events")[0])
    assert token not in noted + (box.top / "log" / "consumer.log").read_text()


def test_without_the_token_there_is_nothing(bare: Sandbox) -> None:
    """The control: the registry means it."""
    of(bare).require_token("planted-elsewhere")
    assert "E401" in str(installed(bare))
