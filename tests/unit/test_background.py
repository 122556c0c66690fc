"""What other tests rely on: background work is stopped, waited for, and its errors are not lost."""

import threading

import pytest

from tests.background import BackgroundTask, Finished


def test_work_repeats_until_the_context_ends() -> None:
    done: list[int] = []

    with BackgroundTask(lambda: done.append(1), every=0) as task:
        task.await_rounds(3)

    assert task.rounds == len(done) >= 3
    assert not task.running


def test_work_without_an_interval_is_done_once_and_waited_for() -> None:
    may_end, done = threading.Event(), list[int]()

    def work() -> None:
        may_end.wait()
        done.append(1)

    with BackgroundTask(work):
        may_end.set()

    assert done == [1]


def test_work_that_has_nothing_more_to_do_ends_by_itself() -> None:
    left = [3, 2, 1]

    def work() -> None:
        if not left:
            raise Finished
        left.pop()

    with BackgroundTask(work, every=lambda: 0.0) as task:
        task.join()

        assert not task.running
    assert task.rounds == 3


def test_what_goes_wrong_in_the_work_is_raised_once() -> None:
    with pytest.raises(ZeroDivisionError), BackgroundTask(lambda: 1 // 0, every=0) as task:
        pass

    task.stop()


def test_waiting_for_rounds_raises_the_error_of_the_work() -> None:
    with BackgroundTask(lambda: 1 // 0, every=0) as task, pytest.raises(ZeroDivisionError):
        task.await_rounds()


def test_error_of_the_test_has_the_error_of_the_work_as_a_note() -> None:
    with pytest.raises(KeyError) as raised, BackgroundTask(lambda: 1 // 0):
        raise KeyError

    assert raised.value.__notes__ == ["In the background: ZeroDivisionError('integer division or modulo by zero')"]
