"""The builds of the corpus, and the rules that they consist of."""

from typing import Any, NamedTuple

from t3flow.sandbox.packages import platform_package

VERSION = "0.0.25-nightly.20260609.501"
VERSIONS = {
    "": VERSION,
    "B": "0.0.33-nightly.20260825.701",
    "C": "0.0.43-nightly.20260920.801",
    "D": "0.1.0-nightly.20261012.901",
    "E": "0.3.0-nightly.20270315.951",
}
"""What a build of each generation is called; without a generation it is one of the first nightlies of B."""
FIRST_S, SHORT_S = 2.0, 3.0  # for builds that hang at first, and later
MINT, ISSUE = "auth pairing create", "auth session issue"
EXCHANGE, SESSION, SNAPSHOT = "/api/auth/browser-session", "/api/auth/session", "/api/orchestration/snapshot"
SHELL = "/api/orchestration/shell"
PLATFORM = f"node_modules/{platform_package()}"
ENVIRONMENT = "/.well-known/t3/environment"

Rule = dict[str, Any]


class Build(NamedTuple):
    """One build of the stand-in: `name` of its test, `seen` what users would notice."""

    name: str
    seen: str
    rules: list[Rule]
    fails: str = ""  # the checks that may find it, apart by blanks; none for a good build
    says: str = ""  # what the evidence must say then: a regular expression
    seed: str = "real"  # the database that it is tried on: see seeds.py
    start_timeout_s: float = 15.0
    behavior: Rule = {}
    settings: Rule = {}  # of [dispatch]
    version: str = ""
    generation: str = ""
    without: tuple[str, ...] = ()  # paths of the install that are missing
    cell: bool = False  # only tried where the host gives namespaces: elsewhere it would reach the test itself


def rule(fault: str, **more: Any) -> Rule:
    """Return a rule of the stand-in, with its conditions under `when`."""
    return {"fault": fault, **more}


def answer(path: str, **more: Any) -> Rule:
    """Return a rule that answers a path wrongly."""
    return rule("answers", when={"path": path}, **more)


def printing(command: str, **more: Any) -> Rule:
    """Return a rule by which a command prints and ends, or hangs, instead of doing its work."""
    return rule("prints", when={"command": command}, **more)


def again(fault: str, **more: Any) -> Rule:
    """Return a rule for every start of the server except the first."""
    return rule(fault, when={"started_before": True}, **more)


def sql(*statements: str, at: str = "migration", **more: Any) -> Rule:
    """Return a rule by which a build runs SQL."""
    return rule("runs_sql", at=at, sql=list(statements), **more)


def of(generation: str, name: str, seen: str, rules: list[Rule], fails: str = "", **more: Any) -> Build:
    """Return a build of a generation, tried on a set of that generation unless `seed` names another."""
    return Build(name, seen, rules, fails, generation=generation, **{"seed": generation, **more})


class Package(NamedTuple):
    """A package that never reaches a trial: `script` is its install script, `manifest` goes into its package.json."""

    name: str
    seen: str
    caught: str
    script: str = ""
    manifest: dict[str, Any] = {}
