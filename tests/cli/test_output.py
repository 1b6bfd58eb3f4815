"""What commands print fits the width, keeps commands whole, and colors only terminals."""

import io
import json

import pytest

from t3flow.cli import output
from t3flow.state.text import width_of

PROBLEM = "ada has waited 3 days for 0.0.25-nightly.20260609.501: a turn is running; to end the process: t3flow enqueue drain ada"


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_line_is_broken_and_its_command_is_not() -> None:
    lines = output.wrapped(PROBLEM).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith("t3flow enqueue drain ada")
    long = "t3flow enqueue bump --target 0.0.25-nightly.20260609.501 --without ada --without grace --wait --json"
    assert output.wrapped(f"a reason: {long}").splitlines()[-1].strip() == long


def test_without_a_width_lines_are_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As for grep, in a pipe."""
    monkeypatch.delenv("COLUMNS")
    assert output.wrapped(PROBLEM) == PROBLEM
    output.table(["user", "why"], [["ada", PROBLEM]])
    assert capsys.readouterr().out.splitlines()[1] == f"ada   {PROBLEM}"


def test_a_table_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """The last column is broken into lines, or cut."""
    output.table(["user", "server", "why"], [["ada", "up", PROBLEM], ["grace", "down", "x" * 200]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert PROBLEM.split()[-1] in " ".join(lines)
    output.table(["user", "why"], [["ada", PROBLEM]], is_cut=True)
    [_, cut] = capsys.readouterr().out.splitlines()
    assert (len(cut) <= 80, cut[-1]) == (True, "…")


@pytest.mark.parametrize(
    ("environment", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colors(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colored: bool) -> None:
    """On a terminal alone, and not where NO_COLOR says anything."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert output.takes_color(Terminal()) is colored
    assert not output.takes_color(io.StringIO())
    assert ("\x1b" in output.styled("x", Terminal(), fg="red")) is colored


def test_control_characters_never_reach_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A name or a reason may come from another account. JSON keeps them, escaped."""
    evil = "a\x1b]0;title\x07b\x9b31m\u202ec"
    assert not set("\x1b\x07\x9b\u202e") & set(output.wrapped(evil) + output.cut(evil))
    output.table(["user"], [[evil]])
    output.dump({"reason": evil})
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
    assert evil in json.loads(shown.partition("\n{")[2].join(["{", ""])).values()


def test_wide_characters_take_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["user", "server", "why"], [["日本語", "up", "パス " * 40], ["ada", "up", "x"]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(width_of, lines)) <= 80
    assert [width_of(line[: line.index("up")]) for line in lines if "up" in line] == [8, 8]


def test_a_long_text_in_a_narrow_column_is_below_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["a" * 60, "why"], [["ada", "a text that takes more than is left"]])
    assert capsys.readouterr().out.splitlines()[1:] == ["ada", "    a text that takes more than is left"]
