"""Runs that have ended, found by outcome, user and time of their end."""

from typing import NamedTuple

from t3flow.engine.journal import Journal


class Sought(NamedTuple):
    """What to look for; "" and None stand for anything. Times are epoch seconds: from `since`, before `until`."""

    outcome: str = ""
    user: str = ""
    since: float | None = None
    until: float | None = None


class Found(NamedTuple):
    """A run that has ended, without its history. Times are epoch seconds."""

    id: str
    workflow: str
    outcome: str
    reason: str
    created: float
    ended: float


CONDITION = """
status != 'running' and (?1 = '' or outcome = ?1) and (?2 is null or updated >= ?2) and (?3 is null or updated < ?3)
and (?4 = '' or json_extract(args, '$.user') = ?4 or exists (select 1 from json_each(result, '$.users') where key = ?4)
    or exists (select 1 from json_each(args, '$.users') where value = ?4))
"""


def past_runs(journal: Journal, sought: Sought, *, limit: int, offset: int = 0) -> list[Found]:
    """Return runs that have ended, the newest end first. A run is found by each user that it was for, or that its result names."""
    rows = journal.query(
        "select id, workflow, outcome, coalesce(json_extract(result, '$.reason'), ''), created, updated "
        f"from runs where {CONDITION} order by updated desc, id desc limit ?5 offset ?6",
        *_parameters(sought),
        limit,
        offset,
    )
    return [Found(str(row[0]), str(row[1]), str(row[2] or ""), str(row[3]), row[4], row[5]) for row in rows]


def count_past_runs(journal: Journal, sought: Sought) -> int:
    """Return how many runs `past_runs` has in all."""
    return int(journal.query(f"select count(*) from runs where {CONDITION}", *_parameters(sought))[0][0])


def known_outcomes(journal: Journal) -> list[str]:
    """Return the outcomes that runs have had."""
    rows = journal.query(
        "select distinct outcome from runs where status != 'running' and outcome is not null order by 1"
    )
    return [str(row[0]) for row in rows]


def _parameters(sought: Sought) -> tuple[object, ...]:
    return sought.outcome, sought.since, sought.until, sought.user
