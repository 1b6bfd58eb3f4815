"""The doctor on the file system that the slots are on."""

from collections.abc import Iterator

from t3flow.doctor.finding import Finding, finding
from t3flow.host import mounts, slots
from t3flow.host.host import Host


def slots_can_run(host: Host) -> Iterator[Finding]:
    """Programs can be put where the slots are, and run from there."""
    if why := mounts.trouble(slots.versions(host.settings.paths.versions_dir)):
        what, _, remedy = why.partition(": ")
        yield finding(what, remedy)
