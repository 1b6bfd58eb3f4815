"""The one catalogue of sentences: what each step of a run does, and what it has done, in words for people.

Every view of a run takes its words from here: `--wait`, `show`, `status`, the consumer's log and status line. A step's name never reaches a person.
The catalogue is keyed by the names that journals hold. It knows steps by name alone and imports none of them: what a journal holds need not fit the
code of the day, and then a plainer sentence is given.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from t3flow.state import wording as say
from t3flow.state.wording import Args, Detail, DetailedProblem, Problem

UNKNOWN_DOING, UNKNOWN_DONE = "Working on a part unknown to this t3flow", "Finished a part unknown to this t3flow"


class Sentence(NamedTuple):
    """The words for one step. `takes`: its parameters in their order; `doing`: while it runs; `done`: afterwards, given arguments and result."""

    takes: str
    doing: str | Callable[[Args], str]
    done: str | Callable[[Args, Any], str]
    is_detail: bool = False


def doing(step: str, args: Iterable[Any] = (), kwargs: Args | None = None) -> str:
    """Return what a step that has begun does, such as "Backing up ada"."""
    if (sentence := find(step)) is None:
        return UNKNOWN_DOING
    given = _given(sentence, args, kwargs)
    try:
        return sentence.doing.format_map(given) if isinstance(sentence.doing, str) else sentence.doing(given)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):  # the journal of another t3flow
        return UNKNOWN_DOING


def done(step: str, args: Iterable[Any] = (), kwargs: Args | None = None, result: Any = None) -> str:
    """Return what a step did, such as "Backed up ada"; a Problem or a Detail where it is one."""
    if (sentence := find(step)) is None:
        return UNKNOWN_DONE
    given = _given(sentence, args, kwargs)
    try:
        text = (
            sentence.done.format_map({**given, "result": result})
            if isinstance(sentence.done, str)
            else sentence.done(given, result)
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        text = Detail(UNKNOWN_DONE)
    return Detail(text) if sentence.is_detail and not isinstance(text, Problem) else text


def find(step: str) -> Sentence | None:
    """Return the sentence of a step, by the name that it has or had."""
    return SENTENCES.get(FORMER.get(step, step))


def _given(sentence: Sentence, args: Iterable[Any], kwargs: Args | None) -> Args:
    return {**dict(zip(sentence.takes.split(), args, strict=False)), **(kwargs or {})}


USER, VERSION = "user", "version"
RESTART = "user previous version snapshot replaced_name"
WAY_BACK = "user previous version snapshot level replaced_name state_before aside"
STOP = "user previous canary ignore_processes fingerprint insists early"
MARKERS = "markers deferrals first broken"

SENTENCES: dict[str, Sentence] = {
    # Where to go, and whether to
    "frozen_reason": Sentence(
        "", "Checking for a freeze", say.reason("Tracking is not frozen", "Tracking is frozen: {reason}")
    ),
    "resolve": Sentence("target", say.asking, say.resolved),
    "guard": Sentence(
        "plan again without",
        "Checking whether the version may be given out",
        say.guarded,
    ),
    "plan_retry": Sentence("reason tries until due", "Planning another attempt", say.next_attempt),
    "await_registry": Sentence("at problem", "Waiting for the registry: {problem}", "Waited for the registry"),
    "await_turn": Sentence("version due again", "Waiting for the turn of this host in the fleet", say.turn_taken),
    "recheck_version": Sentence(
        "version default again", "Checking whether {version} may still be started", say.guarded
    ),
    "survey_users": Sentence("without", "Looking at users and their servers", say.people),
    # Versions
    "assign_explicitly": Sentence(
        "default",
        "Assigning {default} to users without a version of their own",
        say.listed("Assigned {default} explicitly to {number}", "Every user has a version of their own"),
    ),
    "open_scratch": Sentence("", "Creating a scratch folder", "Created a scratch folder", True),
    "clean_scratch": Sentence("", "Removing the scratch folder", "Removed the scratch folder", True),
    "stage": Sentence("version in_scratch", "Installing {version}", say.installed),
    "unstage": Sentence("version in_scratch", "Cleaning up {version}", "Cleaned up {version}"),
    "prune": Sentence(
        "version",
        "Removing old snapshots and versions",
        say.listed(
            "Removed {number}", "No snapshot or version is old", "old snapshot or version", "old snapshots and versions"
        ),
    ),
    "accept": Sentence(VERSION, "Making {version} the default", "Made {version} the default and the last good version"),
    "restore_default": Sentence(VERSION, "Making {version} the default again", "Made {version} the default again"),
    "awaits_acceptance": Sentence(
        VERSION,
        "Checking whether {version} is the default yet",
        say.either("{version} becomes the default with its first user", "The default stays as it is"),
        True,
    ),
    "reject": Sentence(
        "version reason users",
        "Rejecting {version}",
        say.problem("Rejected {version}: no bump tries it again on its own"),
    ),
    "reject_abandoned": Sentence(
        "reasons",
        "Rejecting the versions left behind",
        say.how_many(
            "Rejected {names}, which users left by a rollback",
            "No version was left by the rollback",
            "reasons",
            "version",
        ),
    ),
    "freeze_tracking": Sentence("reason", "Freezing tracking", say.problem("Froze tracking")),
    "alert": Sentence("line", "Writing to the log", "Wrote to the log: {line}", True),
    # Backups and the gate
    "back_up": Sentence("user previous version in_scratch", "Backing up {user}", say.backed_up),
    "back_up_users": Sentence("previous version in_scratch", say.backing_up, say.all_backed_up),
    "back_up_stopped": Sentence(
        "user previous version",
        "Backing up {user} again, now that the server is stopped",
        "Backed up {user} again with the server stopped, as the database had changed",
    ),
    "choose_seeds": Sentence("users snapshots default", "Preparing the gate", say.gate),
    "run_trials": Sentence("slot version seeds width until has_passed", say.trying, say.verdicts),
    "run_controls": Sentence("seeds width until", "Gate: trying the version in use for comparison", say.controls),
    "passed_users": Sentence(
        VERSION,
        "Looking up whose databases {version} passed on",
        say.listed("{version} passed on the database of {names}", "{version} was tried on no database yet"),
        True,
    ),
    "note_untried": Sentence(
        "version users",
        "Noting whose database is untried",
        "{version} has yet to be tried on the database of some users",
        True,
    ),
    "note_tried": Sentence(USER, "Noting the trial on the database of {user}", "Tried on the database of {user}", True),
    "is_untried": Sentence(
        "user version",
        "Checking whether {version} was tried on the database of {user}",
        say.either(
            "{version} has yet to be tried on the database of {user}", "{version} was tried on the database of {user}"
        ),
        True,
    ),
    # The restart of a user
    "canary_order": Sentence("users snapshots", "Choosing the order of restarts", say.order),
    "check_dispatch": Sentence("version besides without", "Checking that the dispatch pairs users", say.pairing),
    "check_pairings": Sentence("users", "Checking who can pair", say.pair_already),
    "check_pairing": Sentence(USER, "Checking that the dispatch pairs users", say.pairing, True),
    "may_still_restart": Sentence(
        "due",
        "Checking the hour",
        say.either("There is time for another restart", "It is past schedule.latest: no more restarts"),
        True,
    ),
    "stop_if_idle": Sentence(STOP, "Stopping the server of {user} if {user} is idle", say.stopped),
    "undo_stop": Sentence(STOP, "Starting the server of {user} again", "Started the server of {user} again"),
    "assign_version": Sentence(
        RESTART,
        "Assigning {version} to {user}",
        say.either(
            "Assigned {version} to {user}", "{user} stays on {previous}: the server was started again meanwhile"
        ),
    ),
    "undo_assignment": Sentence(
        RESTART, "Returning {user} to {previous}", "Returned {user} to {previous}, database and program"
    ),
    "start_server": Sentence(USER, "Starting the server of {user}", "Started the server of {user}"),
    "verify_user": Sentence(
        "user version", "Verifying that {user} can pair on {version}", "Verified: {user} can pair on {version}"
    ),
    "any_server_runs": Sentence(
        "", "Checking whether a server is running", say.either("A server is running", "No server is running"), True
    ),
    "time_now": Sentence("", "Reading the clock", "Read the clock", True),
    "safe_point": Sentence("", "Checking for a request to stop", "No request to stop the run", True),
    "other_users_pairing": Sentence(
        "version user",
        "Checking whether {version} works for other users",
        say.listed("{version} works for {names}", "Nothing shows that {version} works for other users"),
        True,
    ),
    "note_fails_alone": Sentence(
        "user version reason", "Noting that {version} fails for {user} alone", "{version} fails for {user} alone", True
    ),
    "note_not_moved": Sentence(
        "user version why is_own", "Noting why {user} was not moved", "{user} was not moved to {version}: {why}", True
    ),
    # Deferrals
    "defer": Sentence(
        "version causes is_accepted",
        "Deferring users",
        say.how_many("Deferred {names} to {version}", "No user has to wait", "causes"),
    ),
    "await_idle": Sentence("user not_before", "Waiting until {user} is idle", say.idle),
    "pending_deferrals": Sentence("users", "Looking up pending deferrals", say.pending),
    "recheck_deferral": Sentence(
        "user previous version in_window",
        "Checking whether {user} may be moved",
        say.reason("{user} may be moved", "{user} waits: {reason}"),
    ),
    "preview_drain": Sentence("user ignore_processes", "Checking whether {user} is idle", say.preview_drain),
    "note_wait": Sentence("user waiting_for detail ask_again", "Rescheduling {user}", say.waits),
    "note_yielded": Sentence(USER, "Letting a more urgent run go first", "Let a more urgent run go first"),
    "settle_deferral": Sentence(USER, "Closing the deferral of {user}", "Closed the deferral of {user}", True),
    "await_server": Sentence(USER, "Trying to start the server of {user}", say.ended),
    # The watch over pairings
    "begin_bake": Sentence("version users", "Starting the watch over pairings", say.watch),
    "watch_pairings": Sentence(VERSION, "Watching pairings on {version}", say.watched),
    "end_bake": Sentence("", "Ending the watch over pairings", "Ended the watch over pairings", True),
    "begin_soak": Sentence(
        "user version minutes due",
        "Beginning the soak of {user}",
        "Watching {user} on {version} before the next restart",
    ),
    "watch_soak": Sentence("user version begun", "Watching pairings after the first restart", say.soaked),
    "begin_rollback": Sentence(
        "users",
        "Starting a rollback",
        say.how_many("Started a rollback of {names}", "No user is to be rolled back", "users"),
    ),
    # Rollback and restore
    "cannot_roll_back_to": Sentence(
        "version",
        "Checking whether {version} is there to go back to",
        say.reason("{version} is there to go back to", kind=DetailedProblem),
    ),
    "plan_rollback": Sentence("user previous to", "Finding the version that {user} goes back to", say.way_back),
    "check_schema_fit": Sentence(
        "version level state",
        "Checking whether {version} knows the present databases",
        say.either_reason("{version} knows the present databases", "{version} needs its own snapshot: {reason}"),
    ),
    "server_state": Sentence(USER, "Looking at the server of {user}", "The server of {user} was {result}", True),
    "roll_back_user": Sentence(WAY_BACK, "Moving {user} to {version}", say.moved_back),
    "undo_roll_back": Sentence(WAY_BACK, "Returning {user} to {previous}", "Returned {user} to {previous}"),
    "compare_rows": Sentence(
        USER, "Comparing the data of {user} with the backup", "The data of {user} is that of the backup"
    ),
    "common_version": Sentence(
        "",
        "Checking whether all users agree on a version",
        say.either("All users are on {result}", "The default stays as it is"),
        True,
    ),
    "resolve_backup": Sentence("user name", "Looking up the backup of {user}", say.found_backup),
    "candidate_versions": Sentence(
        "wrote", "Finding a version that knows the backup", "Found the versions that may know the backup", True
    ),
    "snapshot_replaced": Sentence("user name wrote version", "Copying {name} of {user}", "Copied {name} of {user}"),
    # Adoption, and its undo
    "survey_host": Sentence("", "Inspecting what the shell tracker left", say.inspected),
    "known_schemas": Sentence(
        "versions",
        "Looking up which migrations the versions know",
        "Looked up which migrations the versions know",
        True,
    ),
    "decide": Sentence("found known notices", "Deciding who gets which version", say.decided),
    "switch_timers": Sentence(
        "timers on",
        say.on_off("Starting the shell tracker's timers", "Stopping the shell tracker's timers"),
        say.on_off("Started the shell tracker's timers", "Stopped the shell tracker's timers"),
    ),
    "switch_back": Sentence(
        "timers on",
        say.on_off("Stopping the shell tracker's timers", "Starting the shell tracker's timers"),
        say.on_off("Stopped the shell tracker's timers again", "Started the shell tracker's timers again"),
    ),
    "import_install": Sentence(
        "version in_scratch tree program", "Copying the installed {version}", "Copied the installed {version}"
    ),
    "undo_import": Sentence(
        "version in_scratch tree program", "Removing the copy of {version}", "Removed the copy of {version}"
    ),
    "make_links": Sentence(
        "default links former",
        "Assigning versions",
        say.how_many("Assigned a version to {number}", "No version is to be assigned", "links"),
    ),
    "unmake_links": Sentence("default links former", "Removing the assigned versions", "Removed the assigned versions"),
    "take_backups": Sentence("folders default", "Taking over the shell tracker's snapshots", say.taken_over),
    "release_backups": Sentence(
        "folders default", "Returning the shell tracker's snapshots", "Returned the shell tracker's snapshots"
    ),
    "take_markers": Sentence(
        MARKERS,
        "Turning the shell tracker's markers into deferrals",
        say.how_many("Deferred {names}", "No user is to be deferred", "deferrals"),
    ),
    "return_markers": Sentence(
        MARKERS, "Returning the shell tracker's markers", "Returned the shell tracker's markers"
    ),
    "adoption_record": Sentence(
        "",
        "Looking up an earlier adoption",
        say.either("The host was adopted before", "The host was not adopted before"),
        True,
    ),
    "note_adoption": Sentence(
        "former new", "Noting how the host was", "Noted how the host was, for adopt --undo", True
    ),
    "forget_adoption": Sentence(
        "former new", "Removing the note about the adoption", "Removed the note about the adoption", True
    ),
    "put_launcher": Sentence("", "Installing the launcher", "Installed the launcher"),
    "check_undo": Sentence(
        "noted",
        "Checking whether every user can pair afterwards",
        say.either("Every user can pair on {result} afterwards", "The host had no t3 before"),
    ),
    "restore_launcher": Sentence("", "Restoring the former launcher", "Restored the former launcher"),
    "end_deferrals": Sentence("", "Removing all deferrals", "Removed all deferrals"),
    "drop_links": Sentence("", "Removing assigned versions", "Removed assigned versions"),
    "restore_markers": Sentence(
        "users folders", "Returning markers and backup folders", "Returned markers and backup folders"
    ),
    "clear_adoption": Sentence("", "Removing the note about the adoption", "Removed the note about the adoption", True),
    # Steps of an earlier t3flow
    "dispatch_trouble": Sentence("", "Checking that the dispatch pairs users", say.reason("The dispatch pairs users")),
    "try_control": Sentence(
        "", "Gate: trying the version in use for comparison", "Gate: tried the version in use for comparison"
    ),
}
"""Name of a step → its words."""
FORMER: dict[str, str] = {
    "bring_back": "undo_stop",
    "bring_back_launcher": "restore_launcher",
    "bring_back_markers": "restore_markers",
    "candidates": "candidate_versions",
    "check_giving_back": "check_undo",
    "dispatch_before": "check_dispatch",
    "find_way_back": "plan_rollback",
    "fits_as_it_is": "check_schema_fit",
    "forget": "clear_adoption",
    "go_back": "roll_back_user",
    "held": "frozen_reason",
    "held_back": "recheck_deferral",
    "leave_out": "undo_import",
    "link_everyone": "assign_explicitly",
    "look_around": "survey_host",
    "look_up": "resolve_backup",
    "note_alone": "note_fails_alone",
    "pairing_before": "check_pairing",
    "pairings_before": "check_pairings",
    "people": "survey_users",
    "proven_by": "other_users_pairing",
    "reject_left": "reject_abandoned",
    "return_to": "restore_default",
    "server_was": "server_state",
    "snapshot_of_kept": "snapshot_replaced",
    "stay": "undo_roll_back",
    "take_back": "undo_assignment",
    "take_in": "import_install",
    "tried_on": "passed_users",
    "try_controls": "run_controls",
    "try_on": "run_trials",
    "what_was_adopted": "adoption_record",
    "where_all_are": "common_version",
    "would_move": "preview_drain",
}
"""Name that a step had in an earlier t3flow → the name that it has now."""
