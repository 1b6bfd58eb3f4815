"""README, docs and `--help` against the code: whatever there is, is said; what is said, is there."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from t3flow.cli.root import root
from t3flow.engine.journal import Journal
from t3flow.engine.runs import new_run
from t3flow.settings.schema import declared

TOP = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).parent / "t3flow"
PAGES = sorted([TOP / "README.md", *TOP.glob("docs/*.md"), *TOP.glob("deploy/**/*.md")])
README = (TOP / "README.md").read_text()
RUNBOOK = (TOP / "docs/runbook.md").read_text()


def commands(command: click.Command = root, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group below the root, with its words."""
    for name, child in getattr(command, "commands", {}).items():
        yield (*path, name), child
        yield from commands(child, (*path, name))


def acts(command: click.Command) -> bool:
    """Whether it does something itself, and is not only a group of commands."""
    return not isinstance(command, click.Group) or command.invoke_without_command


def parsed(words: list[str]) -> None:
    """Parse a command line as the program does, and runs nothing. Raises click.UsageError, or click.exceptions.Exit after a help."""
    context = root.make_context("t3flow", list(words))
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest and context.command.invoke_without_command:
            return
        name, command, args = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, args, parent=context)


def problem_of(line: str) -> str:
    """Return what is wrong with a command line as docs write it, with [] and … around what is optional or repeated; "" if nothing is."""
    words = shlex.split(re.sub(r"[][…]|\.\.\.", "", line))
    try:
        parsed(words[1:])
    except click.exceptions.Exit:
        return ""
    except click.UsageError as error:
        return f"{line}: {error.format_message()}"
    return ""


def said(text: str) -> list[str]:
    """Return the command lines in a page: in backticks, and after a prompt."""
    inline = re.findall(r"`(t3flow [^`]+)`", text)
    prompted = re.findall(r"^[$#] (t3flow .+?)(?:  #.*)?$", text, re.MULTILINE)
    lines = [part.strip() for line in [*inline, *prompted] for part in line.split(";")]
    return [re.sub(r" > \S+$", "", line) for line in lines if line.startswith("t3flow ")]


def first_column(heading: str) -> set[str]:
    """Return the names in backticks that the rows of a section of the runbook begin with."""
    section = RUNBOOK.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def outcomes() -> set[str]:
    """Every outcome that the code gives a run."""
    found: set[str] = set()
    for file in [
        file for room in ("", "engine/", "fleet/", "gate/", "rollout/") for file in TOP.glob(f"t3flow/{room}*.py")
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            given: list[ast.AST | None] = []
            if isinstance(node, ast.Call) and called(node) in ("ended", "Outcome", "Refused"):
                given = list(node.args[:1])
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("OUTCOME_OF"):
                given = list(node.value.values) if isinstance(node.value, ast.Dict) else []
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "name":
                given = [node.value] if isinstance(node.value, ast.IfExp | ast.Constant) else []
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                given = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "outcome"]
            found |= {name for part in given if part is not None for name in results(part)}
    return found


def called(node: ast.Call) -> str:
    """Return the last name of what is called, as `ended` in `bump.ended(…)`."""
    return str(getattr(node.func, "id", getattr(node.func, "attr", "")))


def results(node: ast.AST) -> set[str]:
    """Return the texts that an expression may be."""
    if isinstance(node, ast.IfExp):
        return results(node.body) | results(node.orelse)
    return {node.value} - {""} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


COMMANDS = [pytest.param(path, command, id="-".join(path)) for path, command in commands()]


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_help_is_worth_a_man_page(path: tuple[str, ...], command: click.Command) -> None:
    """Each command: a sentence, an example of itself that parses, every option and whatever it must be given in words."""
    text = command.help or ""
    assert re.match(r"[A-Z][^\n]*[.:)]", text), "it begins with a sentence"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts} says nothing"
        elif parameter.required:
            assert re.search(rf"\b{parameter.make_metavar(click.Context(command))}\b", text), (
                f"{parameter.name} is not explained"
            )
    examples = re.findall(r"Example: (t3flow .+)", text)
    assert examples or not acts(command), "it has no example"
    of_it = " ".join(["t3flow", *path])
    for example in examples:
        assert example.startswith(of_it.removesuffix(" list"))
        assert not problem_of(example)


def test_an_example_that_does_not_parse_is_found() -> None:
    """The control of what looks at examples."""
    assert "No such command" in problem_of("t3flow enqueue dump")
    assert "No such option" in problem_of("t3flow status --jason")
    assert "Missing argument" in problem_of("t3flow pin")
    assert not problem_of("t3flow enqueue drain [USER…] --wait")
    assert said("as `t3flow a b` says\n```\n# t3flow c; t3flow d  # why\n```\n`t3flow e > /f`") == [
        *("t3flow a b", "t3flow e", "t3flow c", "t3flow d")
    ]


def test_the_root_says_what_holds_for_all() -> None:
    """Exit codes, files, environment and completion stand in `t3flow --help`, as a process prints it."""
    shown = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    for part in ("Exit codes:", "Files:", "Environment:", "T3FLOW_CONFIG", "_T3FLOW_COMPLETE=bash_source"):
        assert part in shown
    assert {path[0] for path, _ in commands()} <= set(re.findall(r"^  ([a-z]+) ", shown, re.MULTILINE))


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_every_command_is_in_the_runbook(path: tuple[str, ...], command: click.Command) -> None:
    """By its words, with what it takes."""
    words = " ".join(["t3flow", *path]).removesuffix(" list")
    assert not acts(command) or re.search(rf"`{words}[ `]", RUNBOOK), f"docs/runbook.md does not say {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pages_tell_to_type_can_be_typed(page: Path) -> None:
    """Every command line of README and docs parses, options included."""
    assert [] == [problem for line in said(page.read_text()) if (problem := problem_of(line))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links inside the repository name files that are there."""
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_the_page_about_settings_is_the_codes() -> None:
    """docs/settings.md is what tools/settings_page.py writes, with every key."""
    page = (TOP / "docs/settings.md").read_text()
    written = subprocess.run(
        [sys.executable, TOP / "tools/settings_page.py"], capture_output=True, text=True, check=True
    )
    assert written.stdout == page, "python tools/settings_page.py > docs/settings.md"
    assert [key.partition(".")[2] for key in declared()] == re.findall(r"^\| `(\w+)` \| `", page, re.MULTILINE)


def test_settings_that_pages_name_exist() -> None:
    """A `section.key` in backticks is one of the keys."""
    sections = {key.partition(".")[0] for key in declared()}
    for page in PAGES:
        named = re.findall(r"`([a-z]+\.[a-z_]+)(?: = [^`]*)?`", page.read_text())
        wrong = [key for key in named if key.partition(".")[0] in sections and key not in declared()]
        assert [] == [key for key in wrong if not key.endswith((".json", ".db", ".py"))], page


def test_every_outcome_is_explained() -> None:
    """The runbook's table has exactly the outcomes of the code; README names each."""
    assert outcomes() == first_column("How a run ended")
    assert [] == [name for name in outcomes() if f"`{name}`" not in README]


def test_every_reason_to_wait_is_explained() -> None:
    """The runbook and the help of `deferrals` name the same, and the code knows each."""
    helped = set(re.findall(r"^ +([a-z_]+) {2,}", root.commands["deferrals"].help or "", re.MULTILINE))
    assert helped == first_column("Why a deferred user waits")
    code = "".join(file.read_text() for file in (TOP / "t3flow").rglob("*.py"))
    assert [] == [name for name in helped if f'"{name}"' not in code and f"'{name}'" not in code]


def test_every_alert_is_explained() -> None:
    """Each rule in deploy/ links to a section of the runbook of its own, and each such section is a rule's."""
    rules = "".join(file.read_text() for file in TOP.glob("deploy/**/*.yml"))
    alerts = re.findall(r"alert: (\w+)", rules)
    links = re.findall(r"alert: (\w+)(?:\n {8,}.*)*\n {10}runbook_url: (\S+)", rules)
    assert links == [(alert, f"docs/runbook.md#{alert.lower()}") for alert in alerts]
    section = RUNBOOK.split("\n## Alerts\n")[1].split("\n## ")[0]
    assert sorted(set(alerts)) == sorted(re.findall(r"^### (\w+)$", section, re.MULTILINE))


def test_every_test_that_the_page_about_security_names_is_there() -> None:
    """Each attack has one, in tests/."""
    named = set(re.findall(r"`(test_\w+)`", (TOP / "docs/security.md").read_text()))
    code = "".join(file.read_text() for file in (TOP / "tests").rglob("test_*.py"))
    assert named
    assert [] == [name for name in named if f"def {name}(" not in code]


def test_bash_completes_words_and_options() -> None:
    """The line that the runbook gives, in a real bash."""
    offered = completed(["t3flow unf", "t3flow enqueue ro", "t3flow enqueue bump --dr"])
    assert offered == [["unfreeze"], ["rollback"], ["--dry-run"]]


def test_bash_completes_users_and_runs(tmp_path: Path) -> None:
    """Users of the map that are not on the line yet, and runs of the journal; nothing, and no traceback, where there is neither."""
    (tmp_path / "map").write_text("ada@example=ada\ngrace@example=grace\nadam@example=adam\n")
    (tmp_path / "config.toml").write_text(f'[paths]\nuser_map = "{tmp_path}/map"\nstate_dir = "{tmp_path}"\n')
    run = new_run(Journal(tmp_path / "journal.db", create=True), "bump", {})
    lines = ["verify ad", "verify ada ad", "enqueue rollback --user g", "show bu"]
    lines = [f"t3flow {line}" for line in lines]
    assert completed(lines, str(tmp_path / "config.toml")) == [["ada", "adam"], ["adam"], ["grace"], [run]]
    assert completed(lines, str(tmp_path / "none.toml")) == [[], [], [], []]


def completed(lines: list[str], config: str = "") -> list[list[str]]:
    """Return what bash offers for the last word of each line."""
    [documented] = set(re.findall(r"^\$ (eval .*_T3FLOW_COMPLETE.*)$", RUNBOOK, re.MULTILINE))
    path = shlex.quote(str(PROGRAM.parent))
    script = [f"export PATH={path}:$PATH T3FLOW_CONFIG={shlex.quote(config)}", documented, "complete -p t3flow >&2"]
    for line in lines:
        script.append(f"COMP_WORDS=({line}) COMP_CWORD={len(line.split()) - 1} COMPREPLY=()")
        script.append('_t3flow_completion t3flow; echo "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(script)], capture_output=True, text=True, timeout=120)
    assert re.fullmatch(r"complete .*-F _t3flow_completion t3flow\n", done.stderr), done.stderr
    return [offered.split() for offered in done.stdout.splitlines()]
