"""usage: python tools/standin_levels.py > t3flow/sandbox/standin/lib/levels.json: the stand-in's migrations above level 30.

They are taken from databases that real servers wrote (`tests/data`): the ledger gives ids and names, the difference between two schemas gives
the statements. Which migration brings which column or table is told by COLUMNS and OBJECTS, by their names.
"""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

DATA = Path(__file__).parent.parent / "tests" / "data"
SAMPLES = ["state-level30.sqlite", "state-level32.sqlite", "state-level52.sqlite", "statev2-level56.sqlite"]
LEVELS = [30, 32, 52, 56]
COLUMNS = {
    "settled_override": 33,
    "settled_at": 33,
    "snoozed_until": 34,
    "snoozed_at": 34,
    "title_regeneration_request_id": 35,
    "title_regeneration_started_at": 35,
    "pinned_at": 36,
    "pin_order_key": 38,
    "default_thread_env_mode": 39,
    "favicon_path": 40,
    "client_surface": 41,
    "client_app_version": 41,
    "linked_pull_request_json": 42,
    "unsettled_at": 43,
    "auto_pull": 45,
    "project_icon_json": 47,
    "branch_pull_request_json": 48,
    "active_order_key": 49,
    "context_json": 51,
    "title_state_json": 52,
}
OBJECTS = {"idx_projection_turns_thread_keyset": 37, "projection_thread_pull_requests": 50}
REWRITES = {
    44: "UPDATE projection_projects SET default_model_selection_json = NULL WHERE default_model_selection_json = 'automatic'",
    46: "UPDATE projection_threads SET settled_at = updated_at WHERE settled_at IS NOT NULL AND settled_at > updated_at",
}
V2_LEVEL = 55

Objects = dict[str, tuple[str, str, str]]


def objects(name: str) -> Objects:
    """Return the schema of a sample: object → (type, table, SQL)."""
    with closing(sqlite3.connect(f"file:{DATA / name}?mode=ro&immutable=1", uri=True)) as connection:
        rows = connection.execute("select name, type, tbl_name, sql from sqlite_master where sql is not null")
        return {row[0]: row[1:] for row in rows if not row[0].startswith("sqlite_")}


def ledger(name: str) -> list[tuple[int, str]]:
    """Return the applied migrations of a sample."""
    with closing(sqlite3.connect(f"file:{DATA / name}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute(
            "select migration_id, name from effect_sql_migrations order by migration_id"
        ).fetchall()


def definitions(sql: str) -> dict[str, str]:
    """Return the columns that were added to a table by ALTER TABLE: column → definition. SQLite keeps them at the end, on one line."""
    found = {}
    for part in sql.splitlines()[-1].lstrip(" ,").rstrip(";) ").split(", "):
        if match := re.match(r"(\w+) (.+)", part):
            found[match[1]] = part
    return found


def main() -> None:
    """Print the migrations as JSON: id → [name, statements]."""
    known = {number: name for sample in SAMPLES for number, name in ledger(sample) if number > LEVELS[0]}
    statements: dict[int, list[str]] = {number: [] for number in known}
    before = objects(SAMPLES[0])
    first = objects(SAMPLES[1])
    for table in ("auth_pairing_links", "auth_sessions"):
        statements[31].append(f"DROP TABLE {table}")
    for _, (kind, table, sql) in sorted(first.items(), key=lambda item: (item[1][0] != "table", item[0])):
        if table.startswith("auth_"):
            statements[31].append(re.sub(r",\s*proof_key_thumbprint TEXT", "", sql) if kind == "table" else sql)
    statements[32].append("ALTER TABLE auth_pairing_links ADD COLUMN proof_key_thumbprint TEXT")
    before = first
    for sample, level in zip(SAMPLES[2:], LEVELS[2:], strict=True):
        after = objects(sample)
        for name, (kind, table, sql) in sorted(after.items(), key=lambda item: (item[1][0] != "table", item[0])):
            if name not in before:
                statements[V2_LEVEL if level == LEVELS[-1] else OBJECTS.get(name) or OBJECTS[table]].append(sql)
            elif kind == "table" and sql != before[name][2]:
                known_before = definitions(before[name][2])
                for column, definition in definitions(sql).items():
                    if column not in known_before:
                        statements[COLUMNS[column]].append(f"ALTER TABLE {name} ADD COLUMN {definition}")
        before = after
    for number, sql in REWRITES.items():
        statements[number].append(sql)
    print(
        json.dumps(
            {str(number): [known[number], sorted(statements[number], key=_order)] for number in sorted(known)}, indent=1
        )
    )


def _order(statement: str) -> tuple[int, str]:
    words = ("DROP TABLE", "CREATE TABLE", "ALTER TABLE", "CREATE", "UPDATE")
    return next(index for index, word in enumerate(words) if statement.startswith(word)), ""


if __name__ == "__main__":
    main()
