"""The audit trail: what people asked t3flow to do, through which door, and how it ended.

An action is recorded before it is done and completed afterwards, under an id that its door chose. A repeat of the id, as after a kill between the
two, finds the record. The table is created on the first write, so that an earlier t3flow still reads and writes the journal. It has no column `run`,
because retention keeps the runs of a table that has one.
"""

import json
import time
from typing import Any, NamedTuple

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

CLI, PAGE, USER = "cli", "page", "user"
"""The doors: an operator's command, the page, and a user's `t3flow me`."""
MOST, MOST_DENIED, MOST_OF_A_USER = 1000, 200, 50
"""How many actions are kept: of each door, of those that were denied, and of each user, so that no account pushes out those of others."""
DENIED = "denied"
"""Begins the result of a request by an identity that may not act."""
TABLE = """
create table if not exists actions (
    id text primary key, at real not null, via text not null, by text not null, action text not null, arguments text not null,
    run_id text not null, result text
) without rowid"""


class Actor(NamedTuple):
    """Who acts: the door, and the account or (on the page) the identity."""

    via: str
    name: str


class Action(NamedTuple):
    """One action. `at`: epoch seconds; `run_id`: the run that it started or concerns ("": none); `result`: None until it is done."""

    id: str
    at: float
    via: str
    by: str
    action: str
    arguments: dict[str, Any]
    run_id: str
    result: str | None


def begin(
    journal: Journal, action_id: str, actor: Actor, action: str, arguments: dict[str, Any], run_id: str
) -> Action:
    """Record that an action begins, and return the record: an earlier one where the id is known already."""
    text = json.dumps(arguments)
    with journal.transaction() as connection:
        connection.execute(TABLE)
        connection.execute(
            "insert or ignore into actions values (?, ?, ?, ?, ?, ?, ?, null)",
            (action_id, time.time(), *actor, action, text, run_id),
        )
    [found] = _select(journal, "id = ?", action_id)
    return found


def finish(journal: Journal, action_id: str, result: str) -> None:
    """Record how an action ended. Idempotent: the first result stays."""
    with journal.transaction() as connection:
        connection.execute("update actions set result = ? where id = ? and result is null", (result, action_id))


def find(journal: Journal, action_id: str) -> Action | None:
    """Return an action, or None."""
    return next(iter(_select(journal, "id = ?", action_id)), None)


def recent(journal: Journal, limit: int) -> list[Action]:
    """Return the newest actions, newest first."""
    return _select(journal, "1 order by at desc, id limit ?", limit)


def starters(journal: Journal) -> dict[str, Action]:
    """Return run → the action that started it."""
    return {each.run_id: each for each in _select(journal, "run_id != '' and action != 'cancel' order by at desc")}


def later(journal: Journal, than: Action, names: tuple[str, ...]) -> list[Action]:
    """Return the actions of these names that began after another one, oldest first."""
    found = _select(journal, "at > ? and id != ? order by at", than.at, than.id)
    return [each for each in found if each.action in names]


def delete_old(journal: Journal, keep_days: float) -> None:
    """Delete actions older than so many days, and those beyond the bounds. Idempotent."""
    if not tables.has_table(journal, "actions"):
        return
    before = time.time() - keep_days * 86400
    bounds = [(MOST, "via = ?", CLI), (MOST, "via = ?", PAGE), (MOST_DENIED, "result like ?", f"{DENIED}%")]
    users = journal.query("select distinct by from actions where via = ?", USER)
    bounds += [(MOST_OF_A_USER, "via = 'user' and by = ?", str(user)) for (user,) in users]
    found: list[tuple[str, str | float]] = (
        [("at < ?", before)] if journal.query("select 1 from actions where at < ? limit 1", before) else []
    )
    surplus = "id in (select id from actions where {} order by at desc limit -1 offset {})"
    for most, which, of in bounds:
        if journal.query(f"select count(*) from actions where {which}", of)[0][0] > most:
            found.append((surplus.format(which, most), of))
    if found:
        with journal.transaction(synced=False) as connection:
            for where, value in found:
                connection.execute(f"delete from actions where {where}", (value,))


def _select(journal: Journal, where: str, *parameters: Any) -> list[Action]:
    if not tables.has_table(journal, "actions"):
        return []
    rows = journal.query(
        f"select id, at, via, by, action, arguments, run_id, result from actions where {where}", *parameters
    )
    return [Action(*(*row[:5], json.loads(row[5]), *row[6:])) for row in rows]
