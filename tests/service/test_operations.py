"""Operations of people: recorded, done once, and repeated where they could not be done."""

from collections.abc import Callable

import pytest

from t3flow.engine.journal import JournalError
from t3flow.host import freeze
from t3flow.host.host import Host
from t3flow.host.records import actions, holds
from t3flow.host.records.actions import CLI, PAGE, Actor
from t3flow.service import operations
from t3flow.service.operations import Desk


def test_a_journal_that_cannot_be_written_refuses_nothing(bare: Callable[..., Host]) -> None:
    """The page's request is tried again. It was recorded as refused, and the freeze that a person asked for was dropped."""
    host = bare()
    desk = Desk(host.settings, host.journal, Actor(PAGE, "ada@example.org"), action_id="a" * 32)
    freeze.freeze(host.settings, None, "by hand")
    with host.journal.transaction() as connection:
        connection.execute("insert into facts values ('freeze', '{}')")
        connection.execute(
            "create trigger full before delete on facts begin select raise(abort, 'database or disk is full'); end"
        )
    with pytest.raises(JournalError):
        operations.unfreeze(desk)
    known = actions.find(host.journal, desk.action_id)
    assert known is not None
    assert known.result is None
    with host.journal.transaction() as connection:
        connection.execute("drop trigger full")
    assert operations.unfreeze(desk).startswith("No longer frozen")
    assert not freeze.is_frozen(host.settings)


def test_a_reason_from_a_terminal_in_another_encoding(bare: Callable[..., Host]) -> None:
    """What such a terminal sends for `für` is no UTF-8: a freeze or a hold must not fail for that."""
    host = bare()
    reason = b"kaputt f\xfcr ada".decode(errors="surrogateescape")
    operations.freeze(Desk(host.settings, host.journal, Actor(CLI, "root")), reason)
    found = freeze.frozen(host.settings, host.journal)
    assert found is not None
    assert found["reason"] == "kaputt f?r ada"
    operations.hold(Desk(host.settings, host.journal, Actor(CLI, "root")), "ada", None, reason)
    assert "kaputt f?r ada" in holds.reason(host.journal, "ada")
