"""A consumer that dies while it holds a unit still leaves it stopped: which unit that was is on record, and a later consumer lets it go on."""

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.host.host import Host
from t3flow.host.processes import suspension
from t3flow.host.records import facts

HELD = "held"
"""Fact: the user whose unit is being held still. Written before the first process is stopped, so that a later consumer lets all of it go on."""
OF_OLD = "paused"
"""Fact: the pid of the one process that consumers of an older t3flow held still."""


def note(journal: Journal, user: str) -> None:
    """Note whose unit is about to be held still. Not synced to the disk: after a power cut nothing is held."""
    facts.write(journal, HELD, user, synced=False)


def resume_paused(host: Host) -> None:
    """For a consumer that starts: lets the one unit go on that its predecessor may have died holding still. Idempotent."""
    user = facts.read(host.journal, HELD)
    if isinstance(user, str):
        try:
            if resumed := suspension.resume_all(host.services.pids(user)):
                logger.info("let {} processes of the unit of {} go on, which had been held still", len(resumed), user)
            facts.write(host.journal, HELD, None)
        except T3flowError as error:  # the next start tries again
            logger.error("the server of {} may be held still: {}; t3flow doctor says whether it is", user, error)
    pid = facts.read(host.journal, OF_OLD)
    if isinstance(pid, int):
        for entry in host.user_map().users:
            if host.services.state(entry.name).main_pid == pid:
                suspension.resume_all([pid])
        facts.write(host.journal, OF_OLD, None)
