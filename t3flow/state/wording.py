"""Parts of sentences: numbers with their nouns, lists of names, verdicts, and the words for what a step found.

A function here takes the arguments of a step, by name, and its result, both as the journal has them.
"""

from collections.abc import Callable, Iterable
from typing import Any

from t3flow.deferrals.causes import waits_for
from t3flow.state.short import short_backup
from t3flow.state.times import clock

Args = dict[str, Any]
MOST_NAMES = 8


class Problem(str):
    """A sentence that brings bad news."""

    __slots__ = ()


class Detail(str):
    """A sentence for a full history only: following a run, people do without it."""

    __slots__ = ()


class DetailedProblem(Problem, Detail):
    """Bad news that the end of the run repeats at once."""

    __slots__ = ()


VERDICTS = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}


def count(number: int, what: str, many: str = "") -> str:
    """Return a number with its noun: "1 user", "3 users"."""
    return f"{number} {what if number == 1 else many or f'{what}s'}"


def names(users: Iterable[str]) -> str:
    """Return a list of names: "ada, grace and linus"; after MOST_NAMES, how many more."""
    listed = list(users)
    if len(listed) > MOST_NAMES:
        return f"{', '.join(listed[:MOST_NAMES])} and {len(listed) - MOST_NAMES} more"
    return " and ".join(part for part in (", ".join(listed[:-1]), *listed[-1:]) if part)


def sentence_case(text: str, user: str = "") -> str:
    """Return a reason as a sentence of its own; one that begins with the name of the user stays as it is."""
    return text if user and text.startswith(f"{user} ") else text[:1].upper() + text[1:]


def judged(verdict: dict[str, Any]) -> str:
    """Return a verdict of the gate: "passes", "fails: …", "is inconclusive: …"."""
    return f"{VERDICTS[verdict['verdict']]}{_why(verdict)}"


def judged_on(verdict: dict[str, Any]) -> str:
    """Return a verdict of the gate with what was tried on which database."""
    return f"{verdict['version']} {VERDICTS[verdict['verdict']]} on {of_user(verdict['seed'])}{_why(verdict)}"


def _why(verdict: dict[str, Any]) -> str:
    reach = f" (not isolated: {verdict['not_isolated']})" if verdict["not_isolated"] else ""
    return f"{': ' if verdict['failed'] else ''}{verdict['failed']}{reach}"


def of_user(seed: str) -> str:
    """Return whose database a trial was held on."""
    return "an empty database" if seed == "nobody" else f"the database of {seed}"


def asking(given: Args) -> str:
    """Tell the search for the version to move to."""
    return f"Checking that {given['target']} is published" if given["target"] else "Asking for the version to follow"


def resolved(given: Args, found: dict[str, Any]) -> str:
    """Tell the version to move to and the default."""
    if found["target"] == found["default"]:
        return f"The version to follow is {found['target']}, the default already"
    return f"The version to follow is {found['target']}; the default is {found['default']}"


def guarded(given: Args, found: dict[str, str]) -> str:
    """Whether the version may be given out."""
    if not found["outcome"]:
        return Detail("The version may be given out")
    if found["outcome"] == "up_to_date":
        return Detail(f"Nothing to do: {found['reason']}")
    return DetailedProblem(f"Not given out: {found['reason']}")


def next_attempt(given: Args, found: dict[str, Any]) -> str:
    """When a run that the registry stopped tries again."""
    return Detail(f"Planned the next attempt for {clock(found['at'])}" if found["at"] else "No further attempt is due")


def turn_taken(given: Args, found: dict[str, str]) -> str:
    """Whether this host has its turn in its fleet."""
    if not found["outcome"]:
        return f"It is this host's turn in the fleet to start {given['version']}"
    return DetailedProblem(f"Not started: {found['reason']}")


def people(given: Args, found: list[dict[str, Any]]) -> str:
    """Tell how many users and servers there are, and whom t3flow cannot manage."""
    unmanaged = [each["user"] for each in found if each.get("why")]
    beside = f"; t3flow cannot manage {names(unmanaged)}" if unmanaged else ""
    return (
        f"Found {count(len(found), 'user')}, {count(sum(each['running'] for each in found), 'running server')}{beside}"
    )


def installed(given: Args, found: dict[str, Any]) -> str:
    """Tell an installed version and what is notable about its origin."""
    signatures = f"; signatures {found['signatures']}" if found.get("signatures") else ""
    text = f"Installed {given['version']}{signatures}"
    return Problem("; ".join([text, *found["notices"]])) if found.get("notices") else text


def backed_up(given: Args, found: dict[str, Any]) -> str:
    """Tell the backup of one user."""
    if found.get("missing"):
        return f"Nothing to back up for {given['user']}: there is no database yet"
    if found["problem"]:
        return Problem(f"Could not back up {given['user']}: {found['problem']}")
    return f"Backed up {given['user']}"


def backing_up(given: Args) -> str:
    """Tell that many users are being backed up."""
    return f"Backing up {count(len(given['previous']), 'user')}"


def all_backed_up(given: Args, found: list[dict[str, Any]]) -> str:
    """Tell the backups of many users."""
    problems = [f"{each['user']}: {each['problem']}" for each in found if each["problem"] and not each["missing"]]
    done = f"Backed up {count(sum(not each['problem'] for each in found), 'user')}"
    return Problem("; ".join([done, *(f"could not back up {problem}" for problem in problems)])) if problems else done


# The gate -----------------------------------------------------------------------------------------------------------


def gate(given: Args, found: dict[str, Any]) -> str:
    """Tell what the gate tries a version on."""
    seeds = [seed["user"] for batch in found["batches"] for seed in batch]
    if seeds == ["nobody"]:
        return "Gate: an empty database, as there is no other"
    return f"Gate: {count(len(seeds), 'database')}, {found['width']} in parallel"


def trying(given: Args) -> str:
    """Tell the trials in flight."""
    seeds = given["seeds"]
    on = of_user(seeds[0]["user"]) if len(seeds) == 1 else count(len(seeds), "database")
    return f"Gate: trying {given['version']} on {on}"


def verdicts(given: Args, found: list[dict[str, Any]]) -> str:
    """Tell the verdicts on a version: the first failure with its evidence, the others by name."""
    bad = [each for each in found if each["verdict"] != "pass"]
    if len(found) == 1:
        text = f"Gate: {judged_on(found[0])}"
    else:
        first = f", {bad[0]['seed']} {judged(bad[0])}" if bad else ""
        others = f"; not passing either: {names(each['seed'] for each in bad[1:])}" if bad[1:] else ""
        text = f"Gate: {len(found) - len(bad)} of {len(found)} databases pass{first}{others}"
    return Problem(text) if bad else text


def controls(given: Args, found: list[dict[str, Any]]) -> str:
    """Tell the verdicts on the version in use where the new version failed."""
    told: dict[str, list[str]] = {}
    for each in found:
        told.setdefault(f"{each['version']} {judged(each)}", []).append(each["seed"])
    parts = [
        f"{verdict}, on the {'database' if len(seeds) == 1 else 'databases'} of {names(seeds)}"
        for verdict, seeds in told.items()
    ]
    return f"Gate, for comparison: {'; '.join(parts)}" if parts else Detail("Gate: nothing to compare")


# Restarts and deferrals ---------------------------------------------------------------------------------------------


def order(given: Args, found: list[dict[str, Any]]) -> str:
    """Tell the order of restarts."""
    users = [each["user"] for each in found]
    return f"Order of restarts: {names(users)}" if len(users) > 1 else Detail("Chose the order of restarts")


def pair_already(given: Args, found: list[str]) -> str:
    """Which users paired before the first restart."""
    asked = max(len(given["users"]), len(found))
    if found:
        return Problem(
            f"{asked - len(found)} of {count(asked, 'user')} can pair before the restart; not: {names(found)}"
        )
    return f"{asked} of {count(asked, 'user')} can pair before the restart" if asked else Detail("No server is running")


def pairing(given: Args, found: dict[str, str]) -> str:
    """Whether the dispatch pairs users."""
    trouble = found["stops"] or found["no_pairing"]
    return Problem(sentence_case(trouble)) if trouble else "The dispatch pairs users"


def stopped(given: Args, found: dict[str, Any]) -> str:
    """Tell that a server was stopped, or why it was left running."""
    if found["stopped"]:
        return f"Stopped the idle server of {given['user']}"
    if found.get("changed"):
        return f"The databases of {given['user']} changed since the snapshot: taking another one"
    return f"Left {given['user']} alone: {waits_for(found['waiting_for'], found['detail'])}"


def idle(given: Args, found: dict[str, Any]) -> str:
    """Tell that a deferred user is idle or needs no move."""
    return sentence_case(found["nothing_to_do"], given["user"]) or f"{given['user']} is idle"


def pending(given: Args, found: list[dict[str, Any]]) -> str:
    """Tell which deferrals a drain tries."""
    if not found:
        return "No deferral is pending"
    return f"{count(len(found), 'deferral')} pending: {names(each['user'] for each in found)}"


def preview_drain(given: Args, found: dict[str, Any]) -> str:
    """Tell what a drain would do with a user."""
    if found["result"] == "untouched":
        return f"{given['user']} is idle and would be restarted"
    return f"{given['user']} would be left alone: {waits_for(found['waiting_for'], found['reason'])}"


def waits(given: Args, found: Any) -> str:
    """Tell that a deferred user continues to wait."""
    again = f" until {clock(found)}" if isinstance(found, int | float) and found else ""
    return Detail(f"{given['user']} waits{again}: {waits_for(given['waiting_for'], given['detail'])}")


def watch(given: Args, found: str) -> str:
    """Tell that the pairings are watched."""
    if not found:
        return Detail("No pairings to watch")
    return f"Started to watch the pairings of {count(len(given['users']), 'user')} on {given['version']}"


def watched(given: Args, found: dict[str, Any]) -> str:
    """How a watch over pairings ended."""
    text = f"Watched the pairings: {found['reason']}"
    return Problem(text) if found["is_broken"] else text


def soaked(given: Args, found: dict[str, Any]) -> str:
    """Tell how a soak ended."""
    if found["is_broken"]:
        return Problem(sentence_case(found["reason"], given["user"]))
    if found["dispatch"]:
        return Problem(f"The soak of {given['user']} is over, but no user is restarted: {found['dispatch']}")
    unseen = f"; nothing was seen of real pairings: {found['problem']}" if found["problem"] else ""
    return f"The soak of {given['user']} is over{unseen}"


# Rollback and adoption ----------------------------------------------------------------------------------------------


def way_back(given: Args, found: dict[str, Any]) -> str:
    """Tell the version that a user goes back to."""
    if found["stays"]:
        text = f"{given['user']} stays: {found['reason']}"
        return Problem(text) if found["stays"] == "skipped" else text
    return f"{given['user']} goes back to {found['target']}"


def found_backup(given: Args, found: Any) -> str:
    """Tell which backup is restored."""
    return f"Found the backup {short_backup(given['name'])} of {given['user']}"


def moved_back(given: Args, found: Any) -> str:
    """Tell that a user was rolled back, with or without the database."""
    what = "database and program" if given["snapshot"] else "program only"
    return f"Moved {given['user']} to {given['version']}: {what}"


def inspected(given: Args, found: dict[str, Any]) -> str:
    """Tell what the shell tracker left."""
    there = f"t3 {found['installed']}" if found["installed"] else "no global t3"
    return f"Found {there}, {count(len(found['servers']), 'user')} and {count(len(found['markers']), 'marker')}"


def decided(given: Args, found: dict[str, Any]) -> str:
    """Who gets which version."""
    later = f"; {names(found['deferrals'])} to be moved later" if found["deferrals"] else ""
    return f"{count(len(found['links']), 'user')}, default {found['default']}{later}"


def taken_over(given: Args, found: list[str]) -> str:
    """Tell that the snapshots of the shell tracker were taken over."""
    return Problem("; ".join(map(sentence_case, found))) if found else "Took over the shell tracker's snapshots"


def ended(given: Args, found: str) -> str:
    """Tell a result that is a sentence itself."""
    return sentence_case(str(found), given["user"])


# Builders -----------------------------------------------------------------------------------------------------------


def problem(text: str) -> Callable[[Args, Any], str]:
    """Return the words for a step that is bad news itself."""
    return lambda given, found: Problem(text.format_map(given))


def listed(some: str, none: str, what: str = "user", many: str = "") -> Callable[[Args, Any], str]:
    """Return the words for a result that is a list: `some` with its `{number}` and `{names}`, `none` (a detail) for an empty one."""

    def told(given: Args, found: Any) -> str:
        if not found:
            return Detail(none.format_map(given))
        return some.format_map({**given, "number": count(len(found), what, many), "names": names(map(str, found))})

    return told


def how_many(some: str, none: str, key: str, what: str = "user") -> Callable[..., str]:
    """Return the words for an argument that is a list or a table: `some` with its `{number}` and `{names}`, `none` (a detail) for an empty one."""

    def told(given: Args, found: Any = None) -> str:
        said = {**given, "number": count(len(given[key]), what), "names": names(given[key])}
        return some.format_map(said) if given[key] else Detail(none.format_map(given))

    return told


def reason(good: str, bad: str = "{reason}", kind: type[str] = Problem) -> Callable[[Args, Any], str]:
    """Return the words for a result that is empty when all is well (a detail), and else says why not: by itself a problem."""

    def told(given: Args, found: Any) -> str:
        why = found.get("reason", "") if isinstance(found, dict) else found
        if not why:
            return Detail(good.format_map(given))
        return kind(sentence_case(bad.format_map({**given, "reason": why}), given.get("user", "")))

    return told


def either(yes: str, no: str) -> Callable[[Args, Any], str]:
    """Return the words for a result that is true or not, with `{result}` for what it is."""
    return lambda given, found: (yes if found else no).format_map({**given, "result": found})


def either_reason(good: str, bad: str) -> Callable[[Args, Any], str]:
    """Return the words for a result whose `reason` is empty or says what is missing, neither of them bad news."""
    return lambda given, found: (bad if found["reason"] else good).format_map({**given, "reason": found["reason"]})


def on_off(on: str, off: str) -> Callable[..., str]:
    """Return the words for a switch."""
    return lambda given, found=None: on if given["on"] else off
