"""The gate: tries a version on a copy of a real state, in a cell of its own where the host has them (`cells.py`)."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypedDict

from t3flow.engine.files import DiskError, remove_tree, require_space, safe_name
from t3flow.host.cells import cells
from t3flow.host.cells.cells import Isolation
from t3flow.host.children import Finished, TookTooLong
from t3flow.host.host import Host
from t3flow.host.owner_answers import OwnerProblem, parse_answer
from t3flow.host.processes.ports import listeners
from t3flow.t3 import files, processes

GRACE_SECONDS = 300.0
BYTES_PER_SECOND = 20e6
"""How slow a disk may be that is scanned a few times."""
SPARE_BYTES = 256 * 1024 * 1024
COPIES = 3
"""How often its seed's size a trial may take on disk: the copy, its log, a table written anew."""
FICLONE = 0x40049409


class Verdict(TypedDict):
    """What a trial found. `verdict`: pass, fail, or inconclusive when it could not be held. `failed`: the check not passed with its evidence, or why.

    `seed` is the user whose state it was, `version` what was tried on it, `level` the schema level reached in the live database (0: unknown),
    `schema` the applied migrations of each database as the trial left them, `live` the databases that the server had open (None: not known),
    `slow` that only a time-out failed it, `started_s` how long its slowest start took until the first answer, its migration included (0: not seen),
    `unknown` what t3flow does not know of this t3 ("": nothing; else the verdict is inconclusive),
    `not_isolated` what of the host was in reach ("": nothing).
    """

    seed: str
    version: str
    verdict: Literal["pass", "fail", "inconclusive"]
    failed: str
    not_isolated: str
    level: int
    schema: dict[str, Any]
    live: list[str] | None
    slow: bool
    started_s: float
    unknown: str
    checks: list[dict[str, Any]]


def disk_bound(snapshot_bytes: int) -> int:
    """The most bytes of disk that a trial on a snapshot of this size may take."""
    return COPIES * snapshot_bytes + SPARE_BYTES


def try_version(
    host: Host,
    given: Isolation,
    slot: Path,
    version: str,
    scratch: Path,
    seed: str,
    snapshot: Mapping[str, Path],
    *,
    asks_version: bool = True,
    in_use: Sequence[str] = (),
) -> Verdict:
    """Hold one trial, on a copy of a snapshot: original name → file (none: on an empty base dir). Raises Interrupted.

    `asks_version`: what the program prints is the same on any state, and a command of a real one takes a second of a processor. `in_use`: the
    databases that the version in use is known to serve.

    Repeating it is harmless: it works on a fresh copy. Whatever keeps it from being held is inconclusive, and so is a t3 of a kind that is not
    known; whatever else the version does is its failure, also ending or outlasting the trial.
    """
    folder = (
        scratch / f"seed-{hashlib.sha256(seed.encode()).hexdigest()[:16]}"
    )  # a name may have signs that no file name should
    try:
        size = sum(path.stat().st_size for path in snapshot.values())
    except OSError as error:
        return verdict_of(seed, version, given, "inconclusive", f"the snapshot cannot be read: {error}")
    try:
        if not given.is_whole and listeners(host.settings.gate.port):
            raise DiskError(f"port {host.settings.gate.port} is taken: free it, or set gate.port")
        base_dir = _make_folder(host, folder, seed, snapshot)
    except (DiskError, OSError) as error:
        remove_tree(folder)
        return verdict_of(seed, version, given, "inconclusive", str(error))
    request = _request(host, given, slot, version, folder, base_dir, disk_bound(size))
    limit_seconds = 3 * host.settings.gate.start_timeout_s + GRACE_SECONDS + size / BYTES_PER_SECOND
    visible = [slot, *cells.program_paths(Path(os.path.realpath(slot / ".node")))]
    cell = cells.words(host, given, own_network=True, visible=visible, writable=[folder], disk_bytes=disk_bound(size))
    try:
        finished = host.children.run(
            [*cell, *cells.python("t3flow.gate.cell.trial")],
            environment=cells.environment(HOME=str(folder), SHELL="/bin/sh"),
            text=json.dumps({**request, "limit_s": limit_seconds, "asks_version": asks_version, "in_use": [*in_use]}),
            timeout_seconds=limit_seconds + 30,
        )
    except TookTooLong as error:
        return {**verdict_of(seed, version, given, "fail", f"the trial does not end: {error}"), "slow": True}
    finally:
        remove_tree(folder)
    return _judge(finished, seed, version, given)


def _make_folder(host: Host, folder: Path, seed: str, snapshot: Mapping[str, Path]) -> Path:
    """Make a folder of the gate account's with a base dir in it, and in that the copies. Return the base dir. Raises DiskError, OSError."""
    who = host.gate_account()
    remove_tree(folder)
    base_dir = folder / "base"
    userdata = files.userdata(base_dir)
    userdata.mkdir(parents=True, mode=0o700)
    if snapshot:
        size = sum(path.stat().st_size for path in snapshot.values())
        require_space(folder, disk_bound(size), f"the trial on the databases of {seed}")
    for name, source in snapshot.items():
        copy_file(source, userdata / safe_name(name))
    if who.is_other:
        for path in (folder, base_dir, userdata, *userdata.iterdir()):
            os.chown(path, who.uid, who.gid)
    folder.chmod(0o700)
    return base_dir


def copy_file(source: Path, target: Path) -> None:
    """Copies a file; where the file system can share its blocks, in no time and without taking space."""
    with source.open("rb") as original, target.open("xb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        with suppress(OSError):
            fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
            return
    shutil.copyfile(source, target)


def _request(
    host: Host, given: Isolation, slot: Path, version: str, folder: Path, base_dir: Path, disk_bytes: int
) -> dict[str, Any]:
    settings = host.settings
    return {
        "node": str(slot / ".node"),
        "program": str(slot / processes.PROGRAM),
        "version": version,
        "base_dir": str(base_dir),
        "log": str(folder / "serve.log"),
        "host": "0.0.0.0" if given.is_whole else "127.0.0.1",  # as production binds it; never on the host's own network
        "isolated": given.is_whole,
        "port": settings.gate.port,
        "endpoints": settings.dispatch.pair_endpoints,
        "cookie": settings.dispatch.cookie,
        "start_timeout_s": settings.gate.start_timeout_s,
        "bounds": cells.bounds([folder], disk_bytes),
    }


def _judge(finished: Finished, seed: str, version: str, given: Isolation) -> Verdict:
    """The verdict that a trial's answer means. One that was ended from within has failed; one that never began is inconclusive."""
    try:
        answer = json.loads(finished.stdout)
        if "problem" in answer:
            return verdict_of(seed, version, given, "inconclusive", str(answer["problem"]))
        checks = [
            {"name": str(c["name"]), "ok": c["ok"] is True, "evidence": str(c["evidence"])} for c in answer["checks"]
        ]
        level, slow, unknown = int(answer["level"]), answer["slow"] is True, str(answer["unknown"])
        started_s = max(0.0, float(answer["started_s"]))
        schema = parse_answer(json.dumps({"schema": answer["schema"]}).encode())["schema"]
        live = parse_answer(json.dumps({"live": answer["live"]}).encode())["live"] or None
    except (ValueError, KeyError, TypeError, OwnerProblem):
        if finished.code == 70:
            return verdict_of(seed, version, given, "inconclusive", finished.last_line)
        reason = f"the trial was ended from within (exit code {finished.code}): {finished.last_line}"
        return verdict_of(seed, version, given, "fail", reason)
    failed = next((f"{c['name']}: {c['evidence']}" for c in checks if not c["ok"]), "")
    failed = failed or ("" if checks else "no check was made")
    outcome: Literal["pass", "fail", "inconclusive"] = "fail" if failed else "pass"
    if unknown:
        outcome, failed = "inconclusive", unknown
    found = verdict_of(seed, version, given, outcome, failed)
    return {
        **found,
        "level": level,
        "schema": schema,
        "live": live,
        "slow": slow,
        "started_s": started_s,
        "unknown": unknown,
        "checks": checks,
    }


def verdict_of(
    seed: str, version: str, given: Isolation, verdict: Literal["pass", "fail", "inconclusive"], failed: str
) -> Verdict:
    """A verdict without checks."""
    return {
        "seed": seed,
        "version": version,
        "verdict": verdict,
        "failed": failed,
        "not_isolated": given.missing,
        "level": 0,
        "schema": {},
        "live": None,
        "slow": False,
        "started_s": 0.0,
        "unknown": "",
        "checks": [],
    }
