"""The state of the host as `status` and `deferrals` show it: from the journal, the links and /proc."""

import shlex
import time
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from t3flow import T3flowError
from t3flow.cli.base import consumer_pid, journal, rfc3339
from t3flow.deferrals import blockers, left_behind, long_waits
from t3flow.engine.journal import Journal, JournalError
from t3flow.host import freeze, pairing_results
from t3flow.host.records import deferral_records, facts, rejections
from t3flow.settings.load import Settings
from t3flow.settings.timezones import UnknownZone, zone_of
from t3flow.settings.user_map import UserMap, UserMapError
from t3flow.t3.versions import is_older

NEEDS_A_PERSON = ("gate_inconclusive", "backup_failed", "registry_unreachable", "incomplete_release", "error")
"""Outcomes of a bump after which nothing is frozen or remembered, so that only this line tells."""


def collect(read: Settings) -> dict[str, Any]:
    """Everything that `status --json` prints."""
    from t3flow.host import slots
    from t3flow.host.host import user_map_of

    try:
        noted: Journal | None = journal(read)
    except JournalError:
        noted = None
    held = freeze.frozen(read, noted)
    planned = (facts.read(noted, "next_bump") or {}) if noted else {}
    consumer = (facts.read(noted, "consumer") or {}) if noted else {}
    pid = consumer_pid(read.paths.state_dir)
    pinned = consumer.get("pin") if str(consumer.get("pin_source", "")).startswith("environment") else None
    try:
        mapped = user_map_of(read)
        problems = mapped.problems
    except UserMapError as error:
        mapped, problems = UserMap(), [str(error)]
    active = (
        noted.query(
            "select id from runs where status = 'running' and workflow not in ('drain', 'bake', 'revive') order by created"
        )
        if noted
        else []
    )
    return {
        "default_version": _version(lambda: slots.default_version(read.paths.versions_dir)),
        "last_good": slots.read_last_good(read.paths.last_good_file),
        "tracked_tag": read.track.tag,
        "pin": pinned or (facts.read(noted, "pin") if noted else None) or read.track.pin or None,
        "frozen": {**held, "since": rfc3339(held["since"])} if held else None,
        "rejected": rejections.rejected(noted) if noted else {},
        "users": users(read, noted, mapped),
        "user_map_problems": problems,
        "launcher_problems": [f"{what}; {mend}" for what, mend in launcher_troubles(read)],
        "run": active[0][0] if active else None,
        "run_waits": run_waits(noted, [run for (run,) in active]) if noted else None,
        "last_bump": last_bump(noted) if noted else None,
        "bake": bake(noted) if noted else None,
        "next_bump": rfc3339(planned.get("at")),
        "schedule": schedule_in_force(read, planned),
        "consumer": {
            "alive": pid is not None,
            "pid": pid,
            "waiting_for": facts.read(noted, "waiting_for") if noted else None,
        },
    }


def schedule_in_force(read: Settings, planned: dict[str, Any]) -> dict[str, Any]:
    """When bumps are due by which clock: the consumer's, as it noted it; before that as these settings and the caller's TZ say."""
    from t3flow.settings import schedule

    noted = planned.get("rules") or []
    try:
        zone = zone_of(noted[2]) if len(noted) > 2 else schedule.zone(read)
        at = datetime.fromtimestamp(planned["at"], zone) if planned.get("at") else None
        problem = ""
    except (T3flowError, UnknownZone) as error:
        zone, at, problem = None, None, f"{error}; t3flow config show schedule.timezone"
    return {
        "bump": noted[0] if noted else read.schedule.bump,
        "timezone": str(zone) if zone is not None else None,
        "next": at.isoformat(timespec="seconds") if at else None,
        "problem": problem,
    }


def next_bump(found: dict[str, Any]) -> str:
    """Return when the next bump is due, for people, with the zone and its offset then."""
    planned = found["schedule"]
    if planned["problem"] or not planned["next"]:
        return str(planned["problem"] or f"- ({planned['bump']}, {planned['timezone']})")
    return f"{datetime.fromisoformat(planned['next']):%a %Y-%m-%d %H:%M %z} ({planned['bump']}, {planned['timezone']})"


def launcher_troubles(read: Settings) -> list[tuple[str, str]]:
    """What is wrong with the launcher and the mount of the slots, each with its remedy."""
    from t3flow.host import preflight

    try:
        return [*preflight.launcher_trouble(read), *preflight.mounts_trouble(read)]
    except (T3flowError, OSError) as error:
        return [(f"{read.paths.launcher} cannot be looked at ({error})", "t3flow doctor")]


def last_bump(noted: Journal) -> dict[str, Any] | None:
    """How the bump that ended last did end."""
    found = noted.runs("workflow = 'bump' and status != 'running'", limit=1)
    return next(
        (
            {"run": run.id, "outcome": run.outcome, "reason": run.result.get("reason"), "ended": rfc3339(run.updated)}
            for run in found
        ),
        None,
    )


def run_waits(noted: Journal, runs: list[str]) -> dict[str, Any] | None:
    """The first of these runs that sleeps until the registry has what it needs: what that is, and when it asks again; None for none."""
    for run in runs:
        rows = noted.query(
            "select json_extract(data, '$.waiting_for'), wake_at from events join runs on runs.id = run where run = ? and kind = 'waiting' "
            "and step = 'await_registry' and wake_at > ? order by seq desc limit 1",
            run,
            time.time(),
        )
        for waiting_for, at in rows:
            return {"run": run, "waiting_for": waiting_for, "next_try": rfc3339(at)}
    return None


def bake(noted: Journal) -> dict[str, Any] | None:
    """The version whose pairings are watched, until when, and why nothing can be seen ("" when it can); None while none are."""
    known = facts.read(noted, "bake")
    if known is None or not noted.runs("id = ? and status = 'running'", known["run"]):
        return None
    return {"version": known["version"], "until": rfc3339(known["until"]), "problem": known["problem"]}


def users(read: Settings, noted: Journal | None, mapped: UserMap) -> dict[str, Any]:
    """Each mapped user, and each other account that has a link or a server's settings: server, versions, whether t3flow can manage it, pairing as
    last seen, deferral."""
    from t3flow.host import manageable, slots
    from t3flow.host import t3_accounts as everybody_module
    from t3flow.host.host import COMMANDS_LOCK, open_host
    from t3flow.host.services import running_version

    host = open_host(
        read, cast(Journal, noted), children_lock=COMMANDS_LOCK
    )  # without a journal, what is asked of it here needs none
    pairing = pairing_results.pairings(noted) if noted else {}
    unknown = (facts.read(noted, facts.UNKNOWN_T3) or {}) if noted else {}
    waiting = {each["user"]: each for each in deferrals(noted)} if noted else {}
    behind = left_behind.causes(noted) if noted else {}
    names = [entry.name for entry in mapped.users]
    others = {*slots.links(read.paths.versions_dir), *everybody_module.configured(host)} - set(names)
    everybody = [*names, *sorted(others)] if names else []
    try:
        surveyed = manageable.survey(host, everybody)
    except (T3flowError, OSError):
        surveyed = {}
    servers = {user: each.server for user, each in surveyed.items()}
    why = {user: each.why or manageable.has_no_state(host, user) for user, each in surveyed.items()}
    why |= dict.fromkeys(others, f"is not in the user map: add the line PERSON=USER to {read.paths.user_map}")
    found: dict[str, Any] = {}

    def runs(user: str, pid: int) -> str | None:
        if noted is None:
            return slots.running_version(pid, read.paths.versions_dir)
        found = running_version.running_version(noted, read.paths.versions_dir, user, pid)
        if found is None:
            with suppress(T3flowError):
                return running_version.running_version(
                    noted, read.paths.versions_dir, user, pid, host.services.pids(user)
                )
        return found

    for user in everybody:
        server = servers.get(user)
        pid = server.main_pid if server else None
        last = pairing.get(user)
        found[user] = {
            "unit": server.unit if server else read.serve.unit.format(user=user),
            "active": server.active if server else False,
            "running_version": runs(user, pid) if pid else None,
            "assigned_version": _version(lambda user=user: slots.effective(read.paths.versions_dir, user)),
            "pairing": "unknown" if last is None else "failing" if last["reason"] else "ok",
            "pairing_since": rfc3339(last["since"]) if last else None,
            "pairing_reason": last["reason"] if last else "",
            "unknown": unknown[user][1] if user in unknown else "",
            "deferred": waiting.get(user),
            "left_behind": _left_behind(behind.get(user)),
            "managed": not why.get(user),
            "why_unmanaged": why.get(user, ""),
        }
    return found


def _left_behind(cause: left_behind.Cause | None) -> dict[str, Any] | None:
    """Why a bump left a user behind, as the document has it."""
    return {**cause._asdict(), "since": rfc3339(cause.since)} if cause is not None else None


def _version(read_link: Any) -> str | None:
    try:
        version: str | None = read_link()
        return version
    except T3flowError:
        return None


def deferrals(noted: Journal, *, for_people: bool = False) -> list[dict[str, Any]]:
    """The pending deferrals as the interface names their parts."""
    found = []
    old_waits, stuck = long_waits.old(noted), blockers.lines(noted)
    for entry in deferral_records.deferrals(noted):
        run = next(iter(noted.runs("id = ?", entry.run)), None)
        waiting_for = entry.waiting_for
        if run is not None and run.status == "running":
            waiting_for = run.held or ("host_busy" if run.wake_at is None else waiting_for)
        shown: dict[str, Any] = {
            "user": entry.user,
            "target": entry.version,
            "since": rfc3339(entry.since),
            "checks": entry.checks,
            "next_check": rfc3339(entry.next_check),
            "waiting_for": waiting_for,
            "detail": entry.detail,
            "run": entry.run,
        }
        shown["old"] = _old_wait(entry, old_waits[entry.user]) if entry.user in old_waits else ""
        shown["old"] = stuck.get(entry.user) or shown["old"]
        if for_people:
            shown |= {"since_s": entry.since, "next_check_s": entry.next_check}
        found.append(shown)
    return found


def _old_wait(entry: deferral_records.Deferral, cause: long_waits.Cause) -> str:
    """That a deferral has waited for one cause for long, with the command to run."""
    user, days = shlex.quote(entry.user), (time.time() - cause["since"]) / 86400
    what = f"{entry.user} has waited {days:.1f} days ({cause['checks']} checks) for {entry.version}: {cause['waiting_for']}"
    what += f", {entry.detail}" if entry.detail else ""
    if cause["waiting_for"] == "unreadable_state":
        return f"{what}; t3flow doctor"
    if cause["waiting_for"] == "server_stopped":
        return f"{what}; start it, or t3flow deferrals revoke {user}"
    if cause["waiting_for"] == "running_process":
        return f"{what}; when it may be ended: t3flow enqueue drain {user} --ignore-processes {user}"
    return f"{what}; ask {entry.user} to let their agents end, then t3flow enqueue drain {user}"


def behind_line(user: str, each: dict[str, Any], found: dict[str, Any]) -> str:
    """That a user was left on another version than the default, why, and what moves them; "" for one who was not, or is about to be moved."""
    drain = f"t3flow enqueue drain {shlex.quote(user)}"
    led_to, default, deferred = each["assigned_version"], found["default_version"], each["deferred"]
    if deferred and deferred["waiting_for"] == "revoked":
        return ""  # a person took them out
    if (cause := each["left_behind"]) and deferred:
        why = cause["detail"].removesuffix(f": {drain}")
        if deferred["waiting_for"] == "unreadable_state" and deferred["detail"] and deferred["checks"]:
            why = deferred["detail"]  # what the last attempt to move them has met
        why = why if cause["target"] in why else f"left behind by {cause['target']}: {why}"
        return f"{user} stays on {led_to}: {why}; {drain}"
    if deferred or found["run"] or found["frozen"] or not each["managed"] or not led_to or not default:
        return ""
    if not is_older(led_to, default):
        return ""
    return f"{user} stays on {led_to}, and the default is {default}: no move is pending; t3flow enqueue bump"


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong, each in a line that ends with what to type."""
    lines = [*found["launcher_problems"], *(f"{problem}; t3flow doctor" for problem in found["user_map_problems"])]
    if found["default_version"] is None:
        lines.append("no version is given to anybody yet; t3flow adopt --dry-run, then t3flow adopt")
    for user, each in found["users"].items():
        deferred, runs, led_to = each["deferred"], each["running_version"], each["assigned_version"]
        if deferred and deferred["old"]:
            lines.append(deferred["old"])
        elif line := behind_line(user, each, found):
            lines.append(line)
        if not each["managed"] and (each["active"] or deferred or not each["why_unmanaged"].startswith("is not in")):
            what, _, mend = each["why_unmanaged"].rpartition(": ")
            lines.append(f"{user} is not managed: {what}; {mend}")
            continue
        if not each["managed"]:
            continue
        if each["unknown"]:
            lines.append(f"{user} is left alone: {each['unknown']}; install a newer t3flow")
        if runs and led_to and runs != led_to and not deferred and not found["run"]:
            unit = shlex.quote(each["unit"])
            lines.append(
                f"the server of {user} runs {runs}, and {user} is led to {led_to}: they may not pair; "
                f"t3flow adopt defers them, or systemctl restart {unit} when {user} is idle"
            )
        if each["pairing"] == "failing":
            lines.append(
                f"{user} cannot pair since {each['pairing_since']}: {each['pairing_reason']}; t3flow verify {user}"
            )
        elif not each["active"] and each["running_version"] is None and each["deferred"] is None:
            lines.append(f"the server of {user} does not run; systemctl start {each['unit']}")
    if not found["consumer"]["alive"]:
        lines.append("no consumer runs: nothing is updated; systemctl start t3flow")

    if waits := found["run_waits"]:
        lines.append(f"{waits['run']} waits: {waits['waiting_for']}; t3flow show {waits['run']}")
    last = found["last_bump"]
    if last and last["outcome"] in NEEDS_A_PERSON:
        lines.append(f"the last bump ended {last['outcome']}: {last['reason']}; t3flow show {last['run']}")
    if found["frozen"]:
        held = found["frozen"]
        lines.append(f"FROZEN since {held['since']} by {held['by']}: {held['reason']}; t3flow unfreeze")
    return lines
