"""Start a server that t3flow stopped and cannot start again: another program took its port meanwhile, or the service manager refuses.

The user is assigned a version that fits their databases, and a run of its own tries to start the server until it has its port: at any time of day
and even while tracking is frozen. It waits for no other run: a restore assigns `hold` meanwhile, and then nothing starts.
"""

import time

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.errors import NotYet
from t3flow.engine.runs import new_run
from t3flow.engine.step import current_attempt, current_run, step
from t3flow.host import slots
from t3flow.host.host import Host, current_host
from t3flow.host.pairing import last_pairings, own_activity, probe, verification

SOONEST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
PAIR_SECONDS = 10.0


def owe_start(host: Host, user: str, reason: str) -> None:
    """Have a user's server started as soon as possible, and log an alert. Idempotent: a repeat logs again and finds the run.

    Until then the user counts as being restarted by t3flow, so that what the dispatch logs of them is no version's fault.
    """
    run = owe(host, user, reason)
    logger.error("PORT TAKEN: {}; {} is down until the port is free; {} starts the server then", reason, user, run)


def start_or_owe(host: Host, user: str) -> None:
    """Start a user's server; if the service manager refuses, have it started later. Raises T3flowError then."""
    try:
        host.services.start(user)
    except T3flowError as error:
        owe(host, user, str(error))
        raise


def owe(host: Host, user: str, reason: str) -> str:
    """Have a run of its own start a user's server; return its id. Idempotent: a repeat finds the run, unless it has ended meanwhile."""
    last_pairings.note_pairing(host.journal, user, reason)
    run = f"revive-of-{current_run()}-{user}"
    if not new_run(host.journal, "revive", {"user": user}, run_id=run) and host.journal.run(run).status != "running":
        run = new_run(host.journal, "revive", {"user": user}) or run
    host.hint(run)
    return run


@step()
def await_server(user: str) -> str:
    """Start a user's server again and again as a delayed task, until it has its port and the user pairs; return how it ended.

    Idempotent: a repeat finds the server running, or starts it.
    """
    host = current_host()
    if all(entry.name != user for entry in host.user_map().users):
        return f"{user} is no longer in the user map"
    try:
        version = slots.effective(host.settings.paths.versions_dir, user)
        if version == slots.RESTORING:
            raise probe.NotPaired(f"the databases of {user} are being restored")
        if taken := probe.port_blocker(host, user):
            raise probe.PortTaken(probe.port_taken_message(host, user, taken))
        host.services.start(user)
        verification.verify(host, user, version, PAIR_SECONDS, PAIR_SECONDS)
    except T3flowError as error:
        last_pairings.note_pairing(host.journal, user, str(error))
        wait_seconds = min(LONGEST_SECONDS, SOONEST_SECONDS * current_attempt())
        raise NotYet(time.time() + wait_seconds, str(error)) from error
    last_pairings.note_pairing(host.journal, user, "")
    own_activity.note_restart_end(host.journal, user)
    return f"the server of {user} runs again, and the user pairs"
