"""usage: schemas.py: writes docs/schemas from the types of the documents."""

import json
from pathlib import Path
from typing import Any

import msgspec

from t3flow.state import documents

FOLDER = Path(__file__).parent.parent / "docs/schemas"
DOCUMENTS: dict[str, tuple[Any, str]] = {
    "status": (documents.Status, "t3flow status --json"),
    "deferrals": (list[documents.Deferral], "t3flow deferrals --json"),
    "runs": (list[documents.RunSummary], "t3flow runs --json"),
    "show": (documents.RunHistory, "t3flow show RUN --json"),
    "result": (documents.RunResult, "t3flow enqueue … --wait --json"),
    "actions": (list[documents.Action], "t3flow actions --json"),
    "me": (documents.Me, "t3flow me --json"),
    "backups": (list[documents.Backup], "t3flow backups --json"),
    "verify": (list[documents.Verified], "t3flow verify --json"),
    "message": (documents.Message, "a message to notify.webhook_url"),
    "notify-test": (list[documents.Sent], "t3flow notify test --json"),
    "fleet-status": (documents.FleetStatus, "t3flow fleet status --json"),
    "doctor": (list[documents.Finding], "t3flow doctor --json"),
}
"""File → the type of a document, and the command that prints it."""


def schemas() -> dict[str, str]:
    """Return the text of each file of docs/schemas."""
    return {f"{name}.json": _schema(kind, command) for name, (kind, command) in DOCUMENTS.items()}


def _schema(kind: Any, command: str) -> str:
    made = msgspec.json.schema(kind)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": command, "x-schema": documents.SCHEMA}
    return json.dumps(head | made, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text)
