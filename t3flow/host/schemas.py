"""Which migrations the databases of a user have been through, which ones a version knows, and whether the one knows the others.

The number of the newest migration says too little: nightlies reused numbers. A version knows a database when the database's list is contained in
the version's own, and a state when it knows each of its databases.
"""

from collections.abc import Mapping

from t3flow.host import records
from t3flow.host.host import Host
from t3flow.host.owner import run_as_owner
from t3flow.host.owner_answers import require
from t3flow.host.records import Schemas
from t3flow.t3 import files, ledger

LOOK_SECONDS = 30.0
NO_DATABASE = "there is no database"
"""The problem of a user who has none yet."""


def schemas_of(host: Host, user: str, kept: str = "") -> Schemas:
    """The applied migrations of a user's databases, or of the set `kept` by that name; no server is needed. Raises OwnerProblem."""
    answer = run_as_owner(host, user, "schema", *([kept] if kept else []), timeout_seconds=LOOK_SECONDS)
    require(answer, "schema")
    return {name: records.as_schema(listed) for name, listed in answer["schema"].items()}


def knows(version: Mapping[str, ledger.Schema | None] | None, user: Schemas) -> str:
    """Why a version does not know a user's databases, or "" when it knows them all. Databases that are not t3's are not asked about."""
    if version is None:
        return "what migrations it knows was never seen"
    for name, listed in user.items():
        theirs, known = records.as_schema(listed), records.as_schema(version.get(name))
        if name == files.FIRST_DATABASE:  # later ones are made of it, and go on with its ledger
            known = [each for lists in version.values() for each in records.as_schema(lists) or []]
        if theirs is None:
            continue
        if known is None:
            return f"it does not know {name}"
        if first := ledger.difference(theirs, known):
            return f"{name} went through migration {first}, which it does not know"
    return ""
