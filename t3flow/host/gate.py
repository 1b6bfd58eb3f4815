"""The gate: tries a candidate on a copy of a real database, in namespaces of its own where the host has them."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, TypedDict

from t3flow.errors import T3flowError
from t3flow.files import remove_tree, require_space, safe_name
from t3flow.host import slots
from t3flow.host.accounts import Account, is_root
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.processes import listener_of

LOOPBACK = Path(__file__).with_name("loopback.py")
TRIAL = Path(__file__).with_name("trial.py")
GRACE_SECONDS = 240.0


class GateError(T3flowError):
    """The trial itself could not be held: the host is at fault, not the candidate."""


class Verdict(TypedDict):
    """What a trial found: `seed` is the user whose database it was, `failed` the first check not passed (or "")."""

    seed: str
    passed: bool
    failed: str
    isolated: bool
    level: int
    checks: list[dict[str, Any]]


def _namespaces(who: Account) -> list[str]:
    """The words that put a command into namespaces of its own and make it the account."""
    inner = [sys.executable, "-I", str(LOOPBACK)]
    if is_root():
        change = [
            "setpriv",
            f"--reuid={who.uid}",
            f"--regid={who.gid}",
            "--init-groups",
            "--no-new-privs",
            "--inh-caps=-all",
            "--",
        ]
        return ["unshare", "--net", "--pid", "--fork", "--kill-child", "--", *inner, *change]
    user = ["--user", "--map-current-user", "--keep-caps"]
    return [
        "unshare",
        *user,
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--",
        *inner,
        "setpriv",
        "--ambient-caps=-all",
        "--inh-caps=-all",
        "--",
    ]


def isolation(host: Host) -> list[str]:
    """The words before a trial's command; empty where this host gives no namespaces."""
    words = _namespaces(host.gate_account())
    finished = host.children.run([*words, "true"], timeout_seconds=20)
    return words if finished.code == 0 and not finished.stderr else []


def seed_folder(host: Host, scratch: Path, seed: str, snapshot: Path | None) -> Path:
    """A base dir in the scratch folder with a copy of a snapshot (None: without a database), the gate account's own. Raises DiskError."""
    who = host.gate_account()
    base_dir = scratch / f"seed-{safe_name(seed)}"
    remove_tree(base_dir)
    userdata = base_dir / "userdata"
    userdata.mkdir(parents=True, mode=0o700)
    if snapshot is not None:
        require_space(scratch, 3 * snapshot.stat().st_size, f"the trial on the database of {seed}")
        shutil.copyfile(snapshot, userdata / "state.sqlite")
    if who.is_other:
        for path in (base_dir, userdata, *userdata.iterdir()):
            os.chown(path, who.uid, who.gid)
    return base_dir


def try_candidate(host: Host, slot: Path, version: str, scratch: Path, seed: str, snapshot: Path | None) -> Verdict:
    """One trial. Raises GateError when it could not be held, DiskError, Interrupted. Repeating it is harmless: it works on a fresh copy."""
    settings = host.settings
    who = host.gate_account()
    words = isolation(host)
    if not words and listener_of(settings.gate.port):
        raise GateError(f"port {settings.gate.port} is taken, so no candidate can be tried: free it, or set gate.port")
    base_dir = seed_folder(host, scratch, seed, snapshot)
    node = str(slot / ".node")
    request = {
        "node": node,
        "program": str(slot / slots.PROGRAM),
        "version": version,
        "base_dir": str(base_dir),
        "log": str(base_dir / "serve.log"),
        "host": "0.0.0.0" if words else "127.0.0.1",  # as production binds it; never on the host's own network
        "port": settings.gate.port,
        "endpoints": settings.dispatch.pair_endpoints,
        "cookie": settings.dispatch.cookie,
        "start_timeout_s": settings.gate.start_timeout_s,
    }
    try:
        finished = host.children.run(
            [*words, sys.executable, "-I", str(TRIAL)],
            who=None if words else who,
            environment={"HOME": str(base_dir), "SHELL": "/bin/sh"},
            text=json.dumps(request),
            timeout_seconds=settings.gate.start_timeout_s + GRACE_SECONDS,
        )
    finally:
        remove_tree(base_dir)
    return _verdict(finished, seed, isolated=bool(words))


def _verdict(finished: Finished, seed: str, *, isolated: bool) -> Verdict:
    try:
        answer = json.loads(finished.stdout)
        checks = [
            {"name": str(c["name"]), "ok": c["ok"] is True, "evidence": str(c["evidence"])[:400]}
            for c in answer["checks"]
        ]
        level = int(answer["level"])
    except (ValueError, KeyError, TypeError) as error:
        raise GateError(
            f"the trial on the database of {seed} gave no verdict (exit code {finished.code}): {finished.last_line}"
        ) from error
    failed = next((f"{c['name']}: {c['evidence']}" for c in checks if not c["ok"]), "")
    return {
        "seed": seed,
        "passed": not failed and bool(checks),
        "failed": failed,
        "isolated": isolated,
        "level": level,
        "checks": checks,
    }
