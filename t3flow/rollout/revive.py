"""A server that was stopped here and cannot be started: somebody else has taken its port meanwhile, or its manager does not start it.

Its user is led to a version that fits their database, and a run of its own tries to start the server until it has its port again: whatever is
frozen, and at any time of day. It waits for no other run: whoever restores a database leads the user to `hold` meanwhile, and nothing starts.
"""

import time

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.errors import NotYet
from t3flow.engine.runs import new_run
from t3flow.engine.step import current_attempt, current_run, step
from t3flow.host import own_activity, pairing_results, slots
from t3flow.host.host import Host, this_host
from t3flow.host.pairing import probe

SOONEST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
PAIR_SECONDS = 10.0


def owe_start(host: Host, user: str, why: str) -> None:
    """Has a user's server started as soon as it can be, and says so loudly. Repeating it says it twice and finds the run there.

    The user counts as being restarted by us until then, so that what the dispatch logs of them meanwhile is blamed on no version.
    """
    run = owe(host, user, why)
    logger.error("PORT TAKEN: {}; {} is down until it is free: {} tries to start their server", why, user, run)


def start_or_owe(host: Host, user: str) -> None:
    """Starts a user's server; where its manager does not, that is owed as well. Raises T3flowError then."""
    try:
        host.services.start(user)
    except T3flowError as error:
        owe(host, user, str(error))
        raise


def owe(host: Host, user: str, why: str) -> str:
    """Has a run of its own start a user's server; returns its id. Repeating it finds the run there, unless that has ended meanwhile."""
    pairing_results.note_pairing(host.journal, user, why)
    run = f"revive-of-{current_run()}-{user}"
    if not new_run(host.journal, "revive", {"user": user}, run_id=run) and host.journal.run(run).status != "running":
        run = new_run(host.journal, "revive", {"user": user}) or run
    host.hint(run)
    return run


@step()
def await_server(user: str) -> str:
    """Starts a user's server again and again as a delayed task, until it has its port and they pair; returns how it ended.

    Repeating it finds the server running, or starts it.
    """
    host = this_host()
    if all(entry.name != user for entry in host.user_map().users):
        return f"{user} is no longer in the user map"
    try:
        version = slots.effective(host.settings.paths.versions_dir, user)
        if version == slots.HOLD:
            raise probe.NotPaired(f"the database of {user} is being restored")
        if taken := probe.shut_out(host, user):
            raise probe.PortTaken(probe.taken_line(host, user, taken))
        host.services.start(user)
        probe.verify(host, user, version, PAIR_SECONDS, PAIR_SECONDS)
    except T3flowError as error:
        pairing_results.note_pairing(host.journal, user, str(error))
        wait_seconds = min(LONGEST_SECONDS, SOONEST_SECONDS * current_attempt())
        raise NotYet(time.time() + wait_seconds, str(error)) from error
    pairing_results.note_pairing(host.journal, user, "")
    own_activity.restarted(host.journal, user)
    return f"the server of {user} has its port again, and they pair"
