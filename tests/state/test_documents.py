"""The documents that `--json` prints: held against docs/schemas, strictly, with the output of a real host."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from scenes import NEXT, bump, is_busy

from t3flow.sandbox.host import Sandbox
from t3flow.state.problems import KINDS

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs/schemas"

sys.path.insert(0, str(ROOT / "tools"))
import schemas  # noqa: E402


def strict(schema: Any) -> Any:
    """Return a schema that allows no key that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(each) for key, each in schema.items()}
    return made | {"additionalProperties": False} if "properties" in made else made


def holds(name: str, document: object) -> None:
    """Assert that a document is as its schema says, with no key more."""
    jsonschema.validate(document, strict(json.loads((SCHEMAS / f"{name}.json").read_text())))


def test_schemas_are_those_of_the_types() -> None:
    """docs/schemas is what tools/schemas.py writes."""
    assert {path.name: path.read_text() for path in SCHEMAS.iterdir()} == schemas.schemas()


@pytest.mark.parametrize("change", [{"schema": 2}, {"problems": [{"key": "frozen"}]}, {"more": 1}])
def test_a_document_of_another_shape_does_not_hold(change: dict[str, Any], make_box: Callable[..., Sandbox]) -> None:
    """Another version, a problem without a text, an undocumented key."""
    found = make_box([], consumer=False).document("status")
    holds("status", found)
    with pytest.raises(jsonschema.ValidationError):
        holds("status", found | change)


def test_every_document_of_a_real_host_is_as_its_schema_says(make_box: Callable[..., Sandbox]) -> None:
    """After a bump with a restarted and a deferred user, one of whom cannot pair afterwards."""
    box = make_box(["ada", "grace"])
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    holds("result", said)
    box.t3flow("freeze", "--reason", "demo day")
    box.supervise("stop", "ada")
    holds("verify", json.loads(box.t3flow("verify", "--json").stdout))
    for name, words in {
        "status": ["status"],
        "deferrals": ["deferrals"],
        "runs": ["runs"],
        "show": ["show", said["run"]],
        "actions": ["actions"],
        "backups": ["backups"],
    }.items():
        found = box.document(*words)
        assert found, name
        holds(name, found)
    holds("doctor", json.loads(box.t3flow("doctor", "--json").stdout))
    found = box.document("status")["problems"]
    assert [each["key"] for each in found if each["key"] in ("unpaired", "frozen")] == ["unpaired", "frozen"]
    assert {each["key"] for each in found} <= set(KINDS)
    assert all("t3flow" in each["remedy"] or "systemctl" in each["remedy"] for each in found), found
