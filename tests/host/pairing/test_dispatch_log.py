"""The dispatch's log: which lines count; no line is lost, counted twice, or breaks the reader."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t3flow.host.host import Host
from t3flow.host.pairing import dispatch_log, log_file, log_lines
from t3flow.host.pairing.log_lines import LogProblem, Part

FAILED = "pairing for ada returned 500"
CAPTURED = {
    "_BOOT_ID": "4c4e2c2e2e7a4d1d8f0c1f6f1f0e9d3a",
    "__MONOTONIC_TIMESTAMP": "81234567",
    "__REALTIME_TIMESTAMP": "",
    "__CURSOR": "",
    "MESSAGE": "",
}
"""The fields that `journalctl --output=json --output-fields=MESSAGE` prints of an entry."""


def users(part: Part) -> list[tuple[str, str]]:
    return [(line.kind, line.user) for line in part.lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FAILED, ("failure", "ada")),
        ("mint for ada failed: exit 1: no such table", ("failure", "ada")),
        ("pairing exchange for ada failed: ConnectionRefusedError at port 4", ("failure", "ada")),
        (f"2026/06/09 04:00:01 {FAILED}", ("failure", "ada")),
        ("paired user=ada endpoint=/api/auth/bootstrap fallback=true", ("fallback", "ada")),
        ("paired user=ada endpoint=/api/auth/browser-session fallback=false", None),
        ("mint for ada failed: exit 1: Error: database is locked", None),
        ("request for ada failed: TimeoutError at port 4", None),
        ("nopairing for ada returned 500", None),
        ("pairing for ada returned nothing", None),
        ("mint for ada failed: pairing for grace returned 500", ("failure", "ada")),
        ("", None),
    ],
)
def test_a_line_says(text: str, expected: tuple[str, str] | None) -> None:
    assert log_lines.match_line(text) == expected


def test_a_file_is_followed(bare: Callable[..., Host]) -> None:
    """From its present end; an incomplete last line waits; after rotation, truncation or removal each line counts once."""
    host = bare()
    path = Path(host.settings.dispatch.log)
    path.write_text(f"{FAILED}\n")
    cursor = dispatch_log.end_of_log(host)
    before = time.time()

    def look(expected: list[tuple[str, str]]) -> None:
        nonlocal cursor
        found: list[tuple[str, str]] = []
        more = True
        while more:
            part = dispatch_log.read(host, cursor)
            assert users(part) == users(dispatch_log.read(host, cursor)), "the same cursor reads the same again"
            cursor, more = json.loads(json.dumps(part.cursor)), part.more
            found += users(part)
            assert all(line.earliest <= line.latest and line.latest >= before for line in part.lines)
        assert found == expected

    def add(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    look([])
    add(f"{FAILED}\npairing for gra")
    look([("failure", "ada")])
    add("ce returned 502\n")
    look([("failure", "grace")])
    add("mint for linus failed: x\nmint for linus")
    path.rename(path.with_name("dispatch.log.1"))
    path.write_text("mint for ken failed: x\n")
    look([("failure", "linus"), ("failure", "ken")])
    path.write_text("mint for a failed: x\n")  # shorter than before
    look([("failure", "a")])
    path.unlink()
    with pytest.raises(LogProblem, match=r"cannot read .* \(No such file"):
        dispatch_log.read(host, cursor)
    path.write_text("")
    other = path.with_name("other")
    other.write_text("mint for b failed: x\n")
    os.replace(other, path)
    look([("failure", "b")])
    path.write_text(
        "mint for c failed: x\n" * 5
    )  # copied away and cut short, and longer again than it was before this look
    look([("failure", "c")] * 5)


def test_odd_files_and_lines_do_no_harm(bare: Callable[..., Host]) -> None:
    """Binary data, an endless line, a pipe: reads are bounded and never block, and complete lines count."""
    host = bare()
    path = Path(host.settings.dispatch.log)
    cursor = dispatch_log.end_of_log(host)  # not there yet
    endless = b"mint for ada failed: " + b" mint for grace failed:" * 100_000  # 2.3 MB
    path.write_bytes(b"\xff\x00\x1b[2J\n" + endless + b"\nmint for \xff\xfe failed: x\n" + FAILED.encode() + b"\n")
    found: list[tuple[str, str]] = []
    for _ in range(4):
        part = dispatch_log.read(host, cursor)
        assert part.cursor["offset"] - cursor["offset"] <= log_file.MAX_BYTES
        cursor = part.cursor
        found += users(part)
    assert found == [("failure", "ada"), ("failure", "��"), ("failure", "ada")]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(LogProblem, match="not a regular file"):
        dispatch_log.read(host, cursor)


@pytest.fixture
def journald(bare: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host with a journalctl on PATH that prints a file from the given cursor or time, and a systemctl that knows one unit."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/setpriv").symlink_to(str(shutil.which("setpriv")))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    program = f"""#!{sys.executable} -I
import json, sys
given = dict(word.partition("=")[::2] for word in sys.argv[1:])
assert given["--output"] == "json" and "--quiet" in given and int(given["--lines"]) > 0, given
entries = open("{tmp_path}/entries", "rb").read().splitlines() if given["--unit"] == "t3-dispatch.service" else []
def known(line):
    return json.loads(line) if line.startswith(b"{{") else {{}}
if "--after-cursor" in given:
    places = [known(line).get("__CURSOR") for line in entries]
    entries = entries[places.index(given["--after-cursor"]) + 1:]
else:
    since = int(given["--since"].removeprefix("@"))
    entries = [line for line in entries if int(known(line).get("__REALTIME_TIMESTAMP", since * 1000000)) >= since * 1000000]
for line in entries[-int(given["--lines"]):]:
    sys.stdout.buffer.write(line + b"\\n")
"""
    (tmp_path / "bin/journalctl").write_text(program)
    (tmp_path / "bin/systemctl").write_text(
        '#!/bin/sh\ncase "$*" in *t3-dispatch.service) echo loaded;; *) echo not-found;; esac\n'
    )
    for name in ("journalctl", "systemctl"):
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "entries").write_bytes(b"")
    return source(bare(), "journal:t3-dispatch.service")


def source(host: Host, log: str) -> Host:
    """Return the host with another log."""
    dispatch = host.settings.dispatch._replace(log=log)
    return Host(host.settings._replace(dispatch=dispatch), host.journal, host.children, host.services, host.hint)


def entry(number: int, at: float, message: object) -> bytes:
    fields = {"__REALTIME_TIMESTAMP": str(int(at * 1e6)), "__CURSOR": f"s=ab;i={number:x}", "MESSAGE": message}
    return json.dumps({**CAPTURED, **fields}).encode() + b"\n"


def test_journald_is_followed(journald: Host, tmp_path: Path) -> None:
    """Entries have their own times; those before the start do not count; bytes, nulls and garbage are skipped."""
    now = time.time()
    entries = tmp_path / "entries"
    entries.write_bytes(entry(1, now - 60, FAILED))
    cursor = dispatch_log.end_of_log(journald)
    assert dispatch_log.read(journald, cursor).lines == []
    later = [
        entry(2, now + 1, "pairing for grace returned 500"),
        entry(3, now + 2, None),
        entry(4, now + 3, list(b"mint for linus failed: \xff")),
        b"garbage\n",
        b'["no", "entry"]\n',
        entry(5, now + 4, "mint for ken failed: exit 1: database is locked"),
    ]
    with entries.open("ab") as file:
        file.writelines(later)
    part = dispatch_log.read(journald, cursor)
    assert users(part) == [("failure", "grace"), ("failure", "linus")]
    assert part.lines[0].earliest == part.lines[0].latest == pytest.approx(now + 1, abs=0.001)
    assert part.cursor == {"after": "s=ab;i=5"}
    assert dispatch_log.read(journald, part.cursor) == Part([], part.cursor)
    with entries.open("ab") as file:
        file.write(entry(6, now + 5, FAILED))
    assert users(dispatch_log.read(journald, part.cursor)) == [("failure", "ada")]


def test_a_journal_that_cannot_be_read_says_why(
    journald: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = source(journald, "journal:nobody.service")
    with pytest.raises(LogProblem, match=r"there is no unit nobody\.service"):
        dispatch_log.read(unknown, dispatch_log.end_of_log(unknown))
    (tmp_path / "bin/journalctl").write_text("#!/bin/sh\necho No permission >&2\nexit 1\n")
    with pytest.raises(LogProblem, match=r"journalctl failed \(No permission\)"):
        dispatch_log.read(journald, dispatch_log.end_of_log(journald))
    (tmp_path / "bin/journalctl").unlink()
    with pytest.raises(LogProblem, match="journalctl"):
        dispatch_log.read(journald, dispatch_log.end_of_log(journald))
