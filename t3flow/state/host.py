"""The state of the host: everything that `status` shows, from the journal, the links and /proc."""

import time
from datetime import datetime
from typing import Any

from t3flow import T3flowError
from t3flow.engine.downgrades import left_alone
from t3flow.engine.journal import Journal
from t3flow.engine.reader import ReadOnlyJournal
from t3flow.host import slots
from t3flow.host.records import facts, outbox, rejections
from t3flow.settings.load import Settings
from t3flow.settings.timezones import UnknownZone, zone_of
from t3flow.state.documents import SCHEMA, Bake, Channel, Consumer, LastBump, QueueFault, RunWaits, Schedule, Status
from t3flow.state.fleet_documents import Fleet
from t3flow.state.fleet_settings import in_force
from t3flow.state.observed import Observed, last_observed, observe
from t3flow.state.problems import journal_problem, problems
from t3flow.state.runs import activity
from t3flow.state.sources import QUEUE_FAULT, journal_or_fault, live_consumer_pid
from t3flow.state.times import rfc3339, soon
from t3flow.state.users import frozen_document, users, version_or_none
from t3flow.state.verification import dispatch_fault, verify_state

METRICS_PROBLEMS = "metrics_problems"
"""Fact: why the consumer cannot publish its metrics, a line for each problem."""


def collect(
    read: Settings, noted: Journal | None = None, *, is_live: bool | None = None, observed: Observed | None = None
) -> Status:
    """Return the state of the host, as `status --json` prints it. Works without a consumer, and without a journal.

    `noted`: the journal, if it is open already.
    `is_live`: look at the servers now, instead of reading what the consumer observed last. By default a reader looks that may write the journal.
    `observed`: what the caller saw when it looked itself a moment ago.
    """
    fault = ""
    if noted is None:
        noted, fault = journal_or_fault(read)
    if is_live is None:
        is_live = not isinstance(noted, ReadOnlyJournal)
    if observed is None:
        observed = observe(read, noted) if is_live or noted is None else last_observed(noted)
    planned = (facts.read(noted, "next_bump") or {}) if noted else {}
    consumer = (facts.read(noted, "consumer") or {}) if noted else {}
    pid = live_consumer_pid(read, noted)
    pinned = consumer.get("pin") if str(consumer.get("pin_source", "")).startswith("environment") else None
    active = noted.runs("status = 'running' and workflow not in ('drain', 'bake', 'revive')") if noted else []
    shown = users(read, noted, observed)
    running = [user for user, each in shown.items() if each["active"] and each["managed"]]
    found = Status(
        schema=SCHEMA,
        observed=rfc3339(observed["at"]) if observed["at"] else None,
        problems=[],
        default_version=version_or_none(lambda: slots.default_version(read.paths.versions_dir)),
        last_good=slots.read_last_good(read.paths.last_good_file),
        tracked_tag=read.track.tag,
        pin=pinned or (facts.read(noted, "pin") if noted else None) or read.track.pin or None,
        frozen=frozen_document(read, noted),
        rejected=rejections.rejected(noted) if noted else {},
        users=shown,
        user_map_problems=observed["user_map_problems"],
        launcher_problems=observed["launcher_problems"],
        metrics_problems=(facts.read(noted, METRICS_PROBLEMS) or []) if noted else [],
        run=active[0].id if active else None,
        run_doing=activity(noted, active[0], is_alive=pid is not None) if noted and active else None,
        run_waits=run_waits(noted, [run.id for run in active]) if noted else None,
        newer_runs=left_alone(noted) if noted else [],
        last_bump=last_bump(noted) if noted else None,
        bake=bake(noted) if noted else None,
        verify=verify_state(read, noted, running),
        dispatch_fault=dispatch_fault(noted),
        next_bump=rfc3339(planned.get("at")),
        schedule=schedule_in_force(read, planned),
        consumer=Consumer(
            alive=pid is not None,
            pid=pid,
            waiting_for=facts.read(noted, "waiting_for") if noted else None,
            queue=queue_fault(noted) if noted else None,
        ),
        channels=channels(noted) if noted else [],
        fleet=fleet_if_any(read, noted),
    )
    found["problems"] = [*journal_problem(fault), *problems(found)]
    return found


def queue_fault(noted: Journal) -> QueueFault | None:
    """Return why the queue cannot be used, or soon cannot, as the consumer noted it."""
    fault = facts.read(noted, QUEUE_FAULT)
    if fault is None:
        return None
    return QueueFault(
        cause=fault["cause"], remedy=fault["remedy"], is_blocking=fault["is_blocking"], since=rfc3339(fault["since"])
    )


def fleet_if_any(read: Settings, noted: Journal | None) -> Fleet | None:
    """Return the fleet as this host knows it; None if it belongs to none, which most commands find out without importing the fleet."""
    if noted is None or not in_force(read, noted).fleet.url:
        return None
    from t3flow.state.fleet import fleet

    return fleet(read, noted)


def schedule_in_force(read: Settings, planned: dict[str, Any]) -> Schedule:
    """Return when bumps are due by which clock: the consumer's, as it noted it; before that as these settings and the caller's TZ say."""
    from t3flow.settings import schedule

    noted = planned.get("rules") or []
    try:
        zone = zone_of(noted[2]) if len(noted) > 2 else schedule.zone(read)
        at = datetime.fromtimestamp(planned["at"], zone) if planned.get("at") else None
        problem = ""
    except (T3flowError, UnknownZone) as error:
        zone, at, problem = None, None, f"{error}; t3flow config show schedule.timezone"
    return Schedule(
        bump=noted[0] if noted else read.schedule.bump,
        timezone=str(zone) if zone is not None else None,
        next=at.isoformat(timespec="seconds") if at else None,
        problem=problem,
    )


def next_bump(found: Status) -> str:
    """Return when the next bump is due, for people: by the schedule's own clock, with its time zone."""
    planned = found["schedule"]
    if planned["problem"] or not planned["next"]:
        return str(planned["problem"] or f"not planned ({planned['bump']}, {planned['timezone']})")
    due = datetime.fromisoformat(planned["next"])
    away = soon(due.timestamp())
    return f"{away} ({due:%a %Y-%m-%d %H:%M} {planned['timezone']}), schedule {planned['bump']}"


def last_bump(noted: Journal) -> LastBump | None:
    """Return how the bump that ended last did end; a dry run moves no user, so that it ends no problem and is none."""
    found = noted.runs(
        "workflow = 'bump' and status != 'running' and ifnull(json_extract(args, '$.dry_run'), 0) = 0", limit=1
    )
    return next(
        (
            LastBump(run=run.id, outcome=run.outcome, reason=run.result.get("reason"), ended=rfc3339(run.updated))
            for run in found
        ),
        None,
    )


def run_waits(noted: Journal, runs: list[str]) -> RunWaits | None:
    """Return the first of these runs that waits for the registry, with what it waits for and when it asks again; None for none."""
    for run in runs:
        rows = noted.query(
            "select json_extract(data, '$.waiting_for'), wake_at from events join runs on runs.id = run where run = ? and kind = 'waiting' "
            "and wake_at > ? order by seq desc limit 1",
            run,
            time.time(),
        )
        for cause, at in rows:
            return RunWaits(run=run, waiting_for=cause, next_try=rfc3339(at))
    return None


def bake(noted: Journal) -> Bake | None:
    """Return the version whose pairings are watched, until when, and why nothing can be seen ("" if it can); None without a watch."""
    known = facts.read(noted, "bake")
    if known is None or not noted.runs("id = ? and status = 'running'", known["run"]):
        return None
    return Bake(version=known["version"], until=rfc3339(known["until"]), problem=known["problem"])


def channels(noted: Journal) -> list[Channel]:
    """Return the channels of messages, and how each fares."""
    waiting = outbox.waiting(noted)
    return [
        Channel(
            name=each.name,
            shown=each.shown,
            sent_at=rfc3339(each.sent_at),
            failing_since=rfc3339(each.failing_since),
            cause=each.cause,
            waiting=waiting.get(each.name, 0),
            dead=each.dead,
        )
        for each in outbox.channels(noted)
    ]
