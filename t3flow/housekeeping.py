"""What the consumer clears away in the course of its minutes: runs that ended so long ago that no person and no part of t3flow asks for them."""

from t3flow.engine import retention
from t3flow.host.host import Host


def trim_journal(host: Host) -> retention.Trimmed:
    """Delete runs that ended over `journal.keep_days` ago, but those of which something on record tells. Bounded and idempotent."""

    def is_named_in_a_fact(run_id: str) -> bool:
        return bool(host.journal.query("select 1 from facts where instr(value, ?) limit 1", run_id))

    return retention.tick(host.journal, host.settings.journal.keep_days, is_named_in_a_fact)
