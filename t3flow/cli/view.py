"""The state of the host as lines for a terminal, for `status` and `watch`."""

from t3flow.cli.output import columns, cut, styled, table_lines, wrapped
from t3flow.state.deferrals import in_words
from t3flow.state.documents import Problem, Status, User
from t3flow.state.fleet_documents import Fleet
from t3flow.state.host import next_bump
from t3flow.state.problems import line
from t3flow.state.short import shortened, shortener
from t3flow.state.text import clipped
from t3flow.state.times import ahead, epoch

LABEL = 12
MOST_ALIKE = 3
"""So many problems of one kind have a line each; more share one."""
NARROW_COLUMNS, LONGEST_NAME = 60, 14
SHARED = {
    "unpaired": "{} users cannot pair",
    "server_down": "{} servers are not running",
    "other_version": "{} servers run another version than the assigned one",
    "unknown_t3": "{} users have a t3 that t3flow does not know",
    "unmanaged": "{} users are not managed",
    "left_behind": "{} users stay on another version than the default",
    "deferral_old": "{} deferrals make no progress",
}
"""Kind of problem → the text that many of them share."""


def problem_lines(found: Status, *, is_full: bool = False) -> list[str]:
    """Return the problems, the most urgent first, each with its remedy. Many of one kind share a line with the users' names, unless `is_full`."""
    texts: dict[str, str] = {}
    for problem in found["problems"]:
        alike = [each for each in found["problems"] if each["key"] == problem["key"]]
        if is_full or len(alike) <= MOST_ALIKE or problem["key"] not in SHARED:
            texts[f"{problem['key']} {problem['user']} {problem['text']}"] = line(problem)
        else:
            texts.setdefault(problem["key"], _shared_line(alike))
    return [styled(each, fg="red") for text in texts.values() for each in wrapped(text).splitlines()]


def _shared_line(alike: list[Problem]) -> str:
    users = ", ".join(str(each["user"]) for each in alike)
    text = SHARED[alike[0]["key"]].format(len(alike))
    return f"{text}: {clipped(users, max(40, 2 * (columns() or 80) - 60))}; see t3flow status --all"


def summary_lines(found: Status) -> list[str]:
    """Return the lines about the host."""
    return [
        each for label, text in summary(found) for each in wrapped(text, " " * LABEL, f"{label:<{LABEL}}").splitlines()
    ]


def summary(found: Status) -> list[tuple[str, str]]:
    """Return what is to say about the host, each with its label."""
    consumer, default, good = found["consumer"], found["default_version"], found["last_good"]
    lines = [
        ("Consumer", f"running (pid {consumer['pid']})" if consumer["alive"] else "not running"),
        ("Default", f"{default or 'none yet'}{'' if good in (None, default) else f'; last good: {good}'}"),
        ("Follows", f"{found['pin']} (pinned)" if found["pin"] else f"the tag {found['tracked_tag']}"),
        ("Next bump", next_bump(found)),
        ("Run", found["run"] or "none in progress"),
    ]
    if (waits := found["run_waits"]) and waits["run"] == found["run"]:  # the problem above tells for what
        lines.append(("", f"Waiting; next attempt {ahead(epoch(waits['next_try']))}"))
    elif found["run_doing"]:
        lines.append(("", found["run_doing"]))
    if fleet := found["fleet"]:
        lines.append(("Fleet", fleet_line(fleet)))
    if bake := found["bake"]:
        trouble = f"; nothing is seen: {bake['problem']}" if bake["problem"] else ""
        lines.append(("Watching", f"pairings on {bake['version']}, ends {ahead(epoch(bake['until']))}{trouble}"))
    for version, reason in found["rejected"].items():
        lines.append(("Rejected", cut(f"{version}: {reason.removeprefix(f'{version} ')}", LABEL)))
    return lines


def fleet_line(fleet: Fleet) -> str:
    """Return in short where this host stands in its fleet."""
    where = f"{fleet['host']}, wave {fleet['wave']} of the group {fleet['group']}"
    holders = [slot["host"] or "an unreadable claim" for slot in fleet["slots"] if slot["host"] or slot["problem"]]
    if (turn := fleet["turn"]) and fleet["backend"] == "fleetlock":
        return f"{where}; it is this host's turn for {turn['version']}"
    if fleet["slots"]:
        where += f"; the turn is held by {', '.join(holders)}" if holders else "; no host has the turn"
    return where


def urgency(each: User) -> int:
    """Return the place of a user in a list: users with a problem first, then those who wait, then the others."""
    if each["pairing"] == "failing" or each["unknown"] or not each["managed"]:
        return 0
    return 1 if not each["active"] else 2 if each["deferred"] else 3


def users_lines(found: Status, *, is_cut: bool = False) -> list[str]:
    """Return the table of users: server, version, pairing and what each waits for; those who need attention first."""
    users = found["users"].values()
    targets = [each["deferred"]["target"] for each in users if each["deferred"]]
    short = shortener(
        [*(each["running_version"] for each in users), *(each["assigned_version"] for each in users), *targets]
    )
    is_narrow = (columns() or NARROW_COLUMNS) < NARROW_COLUMNS
    rows = []
    for user, each in sorted(found["users"].items(), key=lambda item: urgency(item[1])):
        runs, led_to, deferred = each["running_version"], each["assigned_version"], each["deferred"]
        version = short.get(led_to or "", "-")
        if runs and runs != led_to:
            version = f"{short[runs]}, assigned {version}"
        waits = shortened(in_words(deferred)) if deferred else ""
        if deferred and not is_cut:
            waits = f"to {short[deferred['target']]}: {waits}"
        if each["held"] and not waits:
            waits = f"held by {each['held']['by']}"
        if not each["managed"] and not waits:
            waits = f"not managed: {each['why_unmanaged'].rpartition(': ')[0]}"
        name = clipped(user, LONGEST_NAME) if is_narrow else user
        rows.append([name, "up" if each["active"] else "down", version, each["pairing"], waits])
    return table_lines(["user", "server", "version", "pairing", "deferred"], rows, is_cut=is_cut)
