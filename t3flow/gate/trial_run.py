"""Run one trial of the gate: a version on a copy of a real set, in a cell if the host supports cells."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from t3flow.engine.files import DiskError, remove_tree, require_space, safe_name
from t3flow.host.cells import cells
from t3flow.host.cells.cells import Isolation
from t3flow.host.children import Finished, TookTooLong
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem, parse_answer
from t3flow.host.processes.ports import listeners
from t3flow.t3 import files, processes

GRACE_SECONDS = 300.0
BYTES_PER_SECOND = 20e6
"""The slowest disk on which a trial, which reads its set a few times, still ends in time."""
SPARE_BYTES = 256 * 1024 * 1024
COPIES = 3
"""Disk space of a trial in multiples of its seed's size: the copy, its log, a rewritten table."""
FICLONE = 0x40049409


class Verdict(TypedDict):
    """The result of a trial. `verdict`: pass, fail, or inconclusive. `failed`: evidence of the failed check, or why the trial is inconclusive.

    `seed`: the user whose set was copied; `version`: the version under trial; `level`: schema level of the live database (0: unknown);
    `schema`: applied migrations of each database after the trial; `live`: databases that the server had open (None: unknown);
    `slow`: it failed by a timeout alone; `started_s`: duration of the slowest start to the first answer, with migration (0: not measured);
    `unknown`: what t3flow does not know about this t3 ("": nothing; otherwise the verdict is inconclusive);
    `not_isolated`: what of the host was within reach ("": nothing); `took_s`: duration of the trial; `server_s`: the part in which it waited for t3's
    own programs; `cpu_s`: processor time of t3flow's own process in the cell; `not_begun`: another trial failed before, and the run decides whether
    this one is still needed.
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
    took_s: NotRequired[float]
    server_s: NotRequired[float]
    cpu_s: NotRequired[float]
    not_begun: NotRequired[bool]


def disk_bound(snapshot_bytes: int) -> int:
    """Return the limit of disk space (bytes) for a trial on a snapshot of this size."""
    return COPIES * snapshot_bytes + SPARE_BYTES


def run_trial(
    host: Host,
    isolation: Isolation,
    slot: Path,
    version: str,
    scratch: Path,
    seed: str,
    snapshot: Mapping[str, Path],
    *,
    asks_version: bool = True,
    in_use: Sequence[str] = (),
) -> Verdict:
    """Run one trial on a copy of a snapshot (file of the set → path; empty: an empty base dir) and return its verdict. Raises Interrupted.

    `asks_version`: check `t3 --version`, once for a batch of trials, because its output does not depend on the set and a command of a real t3 takes
    a second of processor time. `in_use`: the databases that the version in use is known to serve.

    Idempotent: each trial has a fresh copy. The verdict is inconclusive if the trial cannot run, and for a t3 of an unknown generation. Everything
    else that the version does wrong is a failure, including one that ends the trial or does not let it end.
    """
    began = time.monotonic()
    # a hash, because an account name may contain characters that are not safe in a file name
    folder = scratch / f"seed-{hashlib.sha256(seed.encode()).hexdigest()[:16]}"
    try:
        size = sum(path.stat().st_size for path in snapshot.values())
    except OSError as error:
        return verdict_of(seed, version, isolation, "inconclusive", f"the snapshot cannot be read: {error}")
    try:
        if not isolation.is_available and listeners(host.settings.gate.port):
            raise DiskError(f"port {host.settings.gate.port} is in use: free it, or set gate.port")
        base_dir = _make_folder(host, folder, seed, snapshot)
    except (DiskError, OSError) as error:
        remove_tree(folder)
        return verdict_of(seed, version, isolation, "inconclusive", str(error))
    request = _request(host, isolation, slot, version, folder, base_dir, disk_bound(size))
    limit_seconds = 3 * host.settings.gate.start_timeout_s + GRACE_SECONDS + size / BYTES_PER_SECOND
    visible = [slot, *cells.program_paths(Path(os.path.realpath(slot / ".node")))]
    trial = cells.cell_command(
        host,
        isolation,
        own_network=True,
        visible=visible,
        writable=[folder],
        disk_bytes=disk_bound(size),
        module="t3flow.gate.cell.trial",
    )
    try:
        finished = host.children.run(
            trial,
            environment=cells.environment(HOME=str(folder), SHELL="/bin/sh"),
            text=json.dumps({**request, "limit_s": limit_seconds, "asks_version": asks_version, "in_use": [*in_use]}),
            timeout_seconds=limit_seconds + 30,
        )
    except TookTooLong as error:
        return {
            **verdict_of(seed, version, isolation, "fail", f"the trial does not end in time: {error}"),
            "slow": True,
        }
    finally:
        remove_tree(folder)
    verdict = _judge(finished, seed, version, isolation)
    return {**verdict, "took_s": round(time.monotonic() - began, 3)}


def _make_folder(host: Host, folder: Path, seed: str, snapshot: Mapping[str, Path]) -> Path:
    """Create a folder for the gate's account with a base dir that contains the copies; return the base dir. Raises DiskError, OSError."""
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
    """Copy a file, by sharing its blocks if the file system supports that."""
    with source.open("rb") as original, target.open("xb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        with suppress(OSError):
            fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
            return
    shutil.copyfile(source, target)


def _request(
    host: Host, isolation: Isolation, slot: Path, version: str, folder: Path, base_dir: Path, disk_bytes: int
) -> dict[str, Any]:
    settings = host.settings
    return {
        "node": str(slot / ".node"),
        "program": str(slot / processes.PROGRAM),
        "version": version,
        "base_dir": str(base_dir),
        "log": str(folder / "serve.log"),
        "host": "0.0.0.0"
        if isolation.is_available
        else "127.0.0.1",  # as in production, but never on the host's network
        "isolated": isolation.is_available,
        "port": settings.gate.port,
        "endpoints": settings.dispatch.pair_endpoints,
        "cookie": settings.dispatch.cookie,
        "start_timeout_s": settings.gate.start_timeout_s,
        "bounds": cells.bounds([folder], disk_bytes),
    }


def _judge(finished: Finished, seed: str, version: str, isolation: Isolation) -> Verdict:
    """Return the verdict for the output of a trial. A trial that was ended from within has failed; one that never began is inconclusive."""
    try:
        answer = json.loads(finished.stdout)
        if "problem" in answer:
            return verdict_of(seed, version, isolation, "inconclusive", str(answer["problem"]))
        checks = [
            {"name": str(c["name"]), "ok": c["ok"] is True, "evidence": str(c["evidence"])} for c in answer["checks"]
        ]
        level, slow, unknown = int(answer["level"]), answer["slow"] is True, str(answer["unknown"])
        started_s, server_s, cpu_s = (max(0.0, float(answer[key])) for key in ("started_s", "server_s", "cpu_s"))
        schema = parse_answer(json.dumps({"schema": answer["schema"]}).encode())["schema"]
        live = parse_answer(json.dumps({"live": answer["live"]}).encode())["live"] or None
    except (ValueError, KeyError, TypeError, OwnerProblem):
        if finished.code == 70:
            return verdict_of(seed, version, isolation, "inconclusive", finished.last_line)
        reason = f"the version ended its own trial (exit status {finished.code}): {finished.last_line}"
        return verdict_of(seed, version, isolation, "fail", reason)
    failed = next((str(c["evidence"]) for c in checks if not c["ok"]), "" if checks else "the trial made no check")
    outcome: Literal["pass", "fail", "inconclusive"] = "fail" if failed else "pass"
    if unknown:
        outcome, failed = "inconclusive", unknown
    found = verdict_of(seed, version, isolation, outcome, failed)
    return {
        **found,
        "level": level,
        "schema": schema,
        "live": live,
        "slow": slow,
        "started_s": started_s,
        "unknown": unknown,
        "checks": checks,
        "server_s": server_s,
        "cpu_s": cpu_s,
    }


def verdict_of(
    seed: str, version: str, isolation: Isolation, verdict: Literal["pass", "fail", "inconclusive"], failed: str
) -> Verdict:
    """Return a verdict without checks."""
    return {
        "seed": seed,
        "version": version,
        "verdict": verdict,
        "failed": failed,
        "not_isolated": isolation.missing,
        "level": 0,
        "schema": {},
        "live": None,
        "slow": False,
        "started_s": 0.0,
        "unknown": "",
        "checks": [],
    }
