"""Records and hosts for tests."""

from typing import Any

from t3flow.fleet.records import Record


def record(host: str = "a", **more: Any) -> Record:
    """Return a record of a host on one version, with some fields changed."""
    plain = Record(
        host=host,
        seq=1,
        at=1000.0,
        wave=0,
        default="1.0.0",
        last_good="1.0.0",
        frozen="",
        accepted=("1.0.0",),
        verified=("1.0.0",),
        rejected={},
        target="",
        waiting="",
        waiting_since=0.0,
    )
    return plain._replace(**more)
