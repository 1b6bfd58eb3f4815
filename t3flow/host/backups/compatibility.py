"""Whether a version knows the databases of a user, by the lists of applied migrations.

The number of the newest migration is not enough: nightlies reused numbers. A version knows a database when the version's list contains the
database's list, and a set when it knows each of its databases.
"""

from collections.abc import Mapping

from t3flow.host.host import Host
from t3flow.host.owner.answers import require
from t3flow.host.owner.program import run_as_owner
from t3flow.host.records.version_schemas import Schemas, parse_schema
from t3flow.t3 import files, ledger

READ_SECONDS = 30.0
NO_DATABASE = "there is no database"
"""The OwnerProblem of a user who has no database yet."""


def read_schemas(host: Host, user: str, replaced: str = "") -> Schemas:
    """Return the applied migrations of a user's databases, or of the replaced set of that name. Needs no server. Raises OwnerProblem."""
    answer = run_as_owner(host, user, "schema", *([replaced] if replaced else []), timeout_seconds=READ_SECONDS)
    require(answer, "schema")
    return {name: parse_schema(listed) for name, listed in answer["schema"].items()}


def unknown_migration(version: Mapping[str, ledger.Schema | None] | None, user: Schemas) -> str:
    """Return why a version does not know a user's databases, or "" if it knows them all. Databases that are not t3's are ignored."""
    if version is None:
        return "its migrations are not known yet"
    for name, listed in user.items():
        applied, known = parse_schema(listed), parse_schema(version.get(name))
        if name == files.FIRST_DATABASE:  # t3 creates later databases from it, and they continue its ledger
            known = [each for lists in version.values() for each in parse_schema(lists) or []]
        if applied is None:
            continue
        if known is None:
            return f"it does not know {name}"
        if first := ledger.difference(applied, known):
            return f"{name} has migration {first}, which it does not know"
    return ""
