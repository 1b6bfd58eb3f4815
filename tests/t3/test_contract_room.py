"""What t3flow knows about t3 stands in one package: no other module names t3's files, tables, endpoints or cookies."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import t3flow

TOP = Path(t3flow.__file__).parent
EXEMPT = ("t3", "sandbox", "settings/schema.py")
"""The room itself, the stand-in with its host, and the defaults of the settings."""

NAMES = re.compile(
    r"state\.sqlite|statev2|journal3|environment-id|anonymous-id|server-runtime|\buserdata/\S"
    r"|effect_sql_migrations|projection_\w+|orchestration_v2|scheduled_tasks|auth_(sessions|pairing_links)"
    r"|/api/(auth|orchestration)|/oauth/token|\.well-known|sessionCookieName|t3_session|@t3code|queueHeld|active_turn_id"
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a module that is no docstring, with its line."""
    tree = ast.parse(path.read_text())
    statements = [each for node in ast.walk(tree) for each in ast.iter_child_nodes(node) if isinstance(each, ast.Expr)]
    said = {id(each.value) for each in statements if isinstance(each.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def named_outside() -> list[str]:
    """Each string outside the room that names something of t3's, as `module:line: text`."""
    found = []
    for path in sorted(TOP.rglob("*.py")):
        place = path.relative_to(TOP)
        if place.parts[0] not in EXEMPT and str(place) not in EXEMPT:
            found += [f"{place}:{line}: {text[:60]!r}" for line, text in texts(path) if NAMES.search(text)]
    return found


def test_only_one_package_names_what_is_t3s() -> None:
    """Paths in texts for people may say where replaced databases lie, by a placeholder."""
    assert [each for each in named_outside() if "replaced-" not in each] == []


def test_the_search_would_find_a_name(tmp_path: Path) -> None:
    """The control: a name in code is found, in a docstring it is not."""
    module = tmp_path / "module.py"
    module.write_text('"""Reads state.sqlite."""\nPATH = "userdata/state.sqlite"\n')
    assert [line for line, text in texts(module) if NAMES.search(text)] == [2]


def test_the_room_imports_nothing_of_the_rest() -> None:
    """Programs in homes and cells import it: it needs the standard library alone."""
    for path in sorted((TOP / "t3").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            others = [name for name in names if name.startswith("t3flow") and not name.startswith("t3flow.t3")]
            assert set(others) <= {"t3flow"}, path  # the package itself has the base class of errors
