"""What commands print fits the width, keeps commands whole, and colors only terminals."""

import io

import pytest

from t3flow.cli import output

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
