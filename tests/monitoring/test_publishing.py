"""How the consumer publishes metrics, and how trouble with that stays without harm; and `t3flow metrics`."""

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from promtools import program

from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.host.host import Host
from t3flow.host.records import counters, facts
from t3flow.sandbox.host import Sandbox, free_port
from t3flow.service.metrics import families, publisher
from t3flow.service.metrics.publisher import Publisher
from t3flow.state.host import METRICS_PROBLEMS, collect

SETTINGS = '\n[metrics]\nlisten = "127.0.0.1:{port}"\ntextfile = "{top}/node/t3flow.prom"\n'


def lint(text: bytes) -> None:
    """Have promtool judge names, help texts, and the format."""
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return bytes(answer.read())


@pytest.fixture
def host(bare: Callable[..., Host], tmp_path: Path) -> Host:
    made = bare(("ada",), extra=SETTINGS.format(port=free_port(), top=tmp_path))
    counters.install(made.journal)
    return made


def port_of(host: Host) -> int:
    return int(host.settings.metrics.listen.rpartition(":")[2])


def problems(host: Host) -> list[str]:
    return list(facts.read(host.journal, METRICS_PROBLEMS) or [])


def test_both_ways_say_the_same(host: Host, tmp_path: Path) -> None:
    """The textfile and the HTTP server have the same names; promtool finds nothing to say; no line has a timestamp."""
    (tmp_path / "node").mkdir()
    Publisher(host).publish()
    written, served = (tmp_path / "node/t3flow.prom").read_bytes(), fetch(port_of(host))
    lint(written)
    lint(served)
    names = [{line.split(b"{")[0].split()[0] for line in text.splitlines()} for text in (written, served)]
    assert names[0] == names[1]
    assert all(len(line.rpartition("}")[2].split()) <= 2 for line in written.decode().splitlines() if line[0] != "#")


def test_trouble_is_one_line_and_ends_by_itself(host: Host, tmp_path: Path, log: list[str]) -> None:
    """A missing folder and a taken port: said once, shown by status, tried again; what can be published is."""
    with socket.create_server(("127.0.0.1", port_of(host))):
        publishing = Publisher(host)
        for _ in range(3):
            publishing.publish()
        assert len(log) == 3, log  # the third is the dispatch's log, which is missing here
        assert [line.partition(":")[0] for line in problems(host)] == [
            "dispatch.log",
            "metrics.listen",
            "metrics.textfile",
        ]
        assert "cannot write" in problems(host)[2]
        assert "No such file or directory" in problems(host)[2]
    (tmp_path / "node").mkdir()
    Path(host.settings.dispatch.log).touch()
    publishing.publish()
    assert problems(host) == []
    assert fetch(port_of(host)).startswith(b"# HELP t3flow_build_info")
    (tmp_path / "node/t3flow.prom").unlink()
    (tmp_path / "node").rmdir()
    publishing.publish()
    assert len(log) == 4, "what is away again is said again"


def test_an_error_that_nobody_foresaw_is_a_line_too(
    host: Host, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """The thread goes on."""
    monkeypatch.setattr(publisher, "count_pairings", lambda host: 1 / 0)
    publishing = Publisher(host)
    publishing.publish()
    publishing.publish()
    assert problems(host)[0] == "metrics cannot be published (ZeroDivisionError: division by zero)"
    assert sum("ZeroDivisionError" in line for line in log) == 1


def test_it_stops_with_the_consumer(host: Host) -> None:
    stopping = threading.Event()
    thread = threading.Thread(target=publisher.publish, args=(host, stopping))
    thread.start()
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_histogram_takes_buckets_of_another_release() -> None:
    """A bound that this release does not have counts below the next one; nothing is lost."""
    counted = {
        "took": {
            ("a", "0.3"): counters.Counter(2, 0),
            ("a", "1.0"): counters.Counter(1, 0),
            ("a", "7.0"): counters.Counter(4, 0),
        },
        "took_sum": {("a",): counters.Counter(9.5, 0)},
    }
    family = families.histogram("t3flow_x", "X.", counted, "took", (0.5, 1.0), ["step"])
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert found == {
        ("t3flow_x_bucket", "0.5"): 2,
        ("t3flow_x_bucket", "1.0"): 3,
        ("t3flow_x_bucket", "+Inf"): 7,
        ("t3flow_x_count", None): 7,
        ("t3flow_x_sum", None): 9.5,
    }


def test_the_command_needs_no_consumer(make_box: Callable[..., Sandbox]) -> None:
    """It reads the journal that a consumer left, looks at the servers itself, and prints what promtool accepts."""
    box = make_box(["ada", "grace"], consumer=False)
    run = new_run(box.journal, "bump", {}) or ""
    counters.install(box.journal)
    end_run(box.journal, box.journal.run(run), Outcome("updated"))
    done = box.t3flow("metrics")
    assert (done.returncode, done.stderr) == (0, "")
    lint(done.stdout.encode())
    lines = set(done.stdout.splitlines())
    assert "t3flow_consumer_up 0.0" in lines
    assert 't3flow_problem{problem="consumer_down",user=""} 1.0' in lines
    assert 't3flow_user_version_info{user="ada",version="0.0.24"} 1.0' in lines
    assert 't3flow_user_up{user="grace"} 1.0' in lines
    assert 't3flow_runs_total{outcome="updated",workflow="bump"} 1.0' in lines


def test_the_command_without_a_journal_or_the_right_to_read_it(bare: Callable[..., Host], tmp_path: Path) -> None:
    """Before the first start there is little to print; another account's journal is one line, and no traceback."""
    host = bare()
    journal = Path(host.journal.path)
    environment = {**os.environ, "T3FLOW_CONFIG": str(tmp_path / "box/config.toml")}

    def print_metrics() -> subprocess.CompletedProcess[str]:
        words = [str(Path(sys.executable).parent / "t3flow"), "metrics"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)

    journal.chmod(0)
    done = print_metrics()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    for path in journal.parent.glob("journal.db*"):
        path.unlink()
    done = print_metrics()
    assert (done.returncode, done.stderr) == (0, "")
    assert "t3flow_build_info" in done.stdout


def test_problems_show_while_a_consumer_runs(make_box: Callable[..., Sandbox]) -> None:
    """`status` has the line, with what to do; a consumer without such settings starts no thread, no import, and no file."""
    box = make_box(["ada"], start=True, consumer=False, extra=SETTINGS.format(port=free_port(), top="/nonexistent"))
    consumer = box.start_consumer()
    box.until(
        lambda: "metrics.textfile: cannot write /nonexistent/node/t3flow.prom" in box.t3flow("status").stdout,
        "it is said",
        20,
    )
    [problem] = [each for each in collect(box.settings)["problems"] if each["key"] == "metrics"]
    assert problem["remedy"].endswith("t3flow config show metrics")
    assert (box.top / "log/consumer.log").read_text().count("metrics.textfile") == 1
    assert b"t3flow_consumer_up 1.0" in fetch(int(box.settings.metrics.listen.rpartition(":")[2]))
    assert consumer.poll() is None
    box.kill("consumer")
    box.config.write_text(box.config.read_text().partition("[metrics]")[0])
    box.start_consumer()
    assert "metrics" not in {each["key"] for each in collect(box.settings)["problems"]}
