"""What commands import: a command that only reads must not pay for what writes, logs or retries."""

import subprocess
import sys
from pathlib import Path

import pytest

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

HEAVY = {
    "loguru",
    "tenacity",
    "asyncio",
    "multiprocessing",
    "huey",
    "redis",
    "psutil",
    "rich",
    "concurrent.futures",
    "http.client",
}
PROGRAM = """
import sys
from t3flow.cli import main
try:
    main()
except SystemExit as done:
    print(done.code, *sorted(set(sys.modules) & set(sys.argv.pop().split(","))), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", [["status"], ["status", "--json"], ["runs"], ["deferrals"], ["--version"]], ids=" ".join
)
def test_what_only_reads_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    Journal(tmp_path / "journal.db", create=True, extra_schema=tables.SCHEMA)
    (tmp_path / "map").write_text("")
    config = tmp_path / "config.toml"
    paths = {
        "state_dir": tmp_path,
        "user_map": tmp_path / "map",
        "versions_dir": tmp_path / "t3",
        "launcher": tmp_path / "bin",
    }
    config.write_text("[paths]\n" + "".join(f'{key} = "{path}"\n' for key, path in paths.items()))
    program = PROGRAM.replace("sys.argv.pop()", repr(",".join(HEAVY)))
    command = [sys.executable, "-c", program, "--config", str(config), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "0\n", done.stderr
