"""Work for many users at once: the order of the results, errors, signals, and a limit in time."""

import threading
import time

import pytest

from t3flow.engine.errors import Interrupted
from t3flow.engine.step import Interrupt, check_interrupt, current_interrupt
from t3flow.host import parallel


def test_results_come_in_order_and_the_work_is_done_at_once() -> None:
    barrier = threading.Barrier(4)

    def work(number: int) -> int:
        barrier.wait(30)  # ends only if four are at work at the same time
        return number * 2

    assert parallel.for_each(work, range(8), 4) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_an_error_ends_it_and_no_more_is_begun() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError("the second")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="the second"):
        parallel.for_each(work, range(100), 2)
    assert len(begun) < 100


def test_a_signal_interrupts_all_threads() -> None:
    interrupt = Interrupt()
    token = current_interrupt.set(interrupt)

    def work(number: int) -> None:
        if number == 0:
            interrupt.set("cancel")
        while True:
            check_interrupt()
            time.sleep(0.01)

    try:
        with pytest.raises(Interrupted):
            parallel.for_each(work, range(4), 4)
    finally:
        current_interrupt.reset(token)


def test_a_limit_in_time_leaves_out_the_last_of_many_and_none_of_few() -> None:
    some = range(parallel.ALWAYS)
    assert list(parallel.for_each_within(0.0, str, some)) == list(some)
    many = range(parallel.ALWAYS + 20)
    assert parallel.for_each_within(0.0, str, many) == {number: str(number) for number in some}
    assert len(parallel.for_each_within(60.0, str, many)) == len(many)


def test_one_item_needs_no_thread() -> None:
    assert parallel.for_each(lambda _: threading.current_thread(), [1], 8) == [threading.current_thread()]
    assert parallel.for_each(str, []) == []
