"""Duration of `t3flow status` with 100 users and 1,000 past runs, every tenth of which moved all users, beside a bare start of Python."""

import sqlite3
import subprocess
import sys
from contextlib import closing

from common import median_seconds, show, sized
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.sandbox.host import Sandbox

USERS, RUNS, TIMES = sized((100, 1000, 20), (3, 50, 3))


def remember(box: Sandbox, small: str, big: str) -> None:
    """Copy two runs under new names into the journal."""
    with closing(sqlite3.connect(box.settings.paths.state_dir / "journal.db")) as connection, connection:
        for number in range(RUNS - 2):
            source, copy = (big if number % 10 == 0 else small), f"past-{number:04}"
            for table, key in (("runs", "id"), ("events", "run")):
                names = [row[1] for row in connection.execute(f"pragma table_info({table})")]
                others = ", ".join(name for name in names if name != key)
                copied = f"insert into {table} ({key}, {others}) select ?, {others} from {table} where {key} = ?"
                connection.execute(copied, (copy, source))


def main() -> None:
    """Measure with real servers and a real journal; only its length is artificial."""
    users = [f"user{number:03}" for number in range(USERS)]
    with sandbox(users, quiet_seconds=0) as box:
        box.start("0.0.24", dict.fromkeys(users, LEVEL30), {"schema_level": 30})
        text = box.config.read_text()
        box.config.write_text(text.replace("[gate]", "[gate]\nseeds = 'largest'", 1))
        box.start_consumer()
        box.publish("0.0.25-nightly.20260609.1", {"schema_level": 30})
        big = box.document("enqueue", "bump", "--wait")
        assert big["outcome"] == "updated", big
        small = box.document("enqueue", "bump", "--wait")
        assert small["outcome"] == "up_to_date", small
        remember(box, small["run"], big["run"])
        assert len(box.document("runs", "--limit", "5000")) >= RUNS
        bare = median_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True), TIMES)
        show("bare start of the interpreter", bare)
        for words in (["--version"], ["status"], ["status", "--json"], ["runs"]):
            taken = median_seconds(lambda words=words: box.t3flow(*words), TIMES)
            show(f"t3flow {' '.join(words)}", taken, "bare start", bare)


if __name__ == "__main__":
    go_inside()
    main()
