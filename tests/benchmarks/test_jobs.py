"""Work in several processes side by side."""

import os
import time
from multiprocessing import active_children

import pytest

from recollect.benchmarks.jobs import each
from recollect.errors import InvalidInput


def square(job: int) -> tuple[int, int]:
    if job < 0:
        raise InvalidInput(f"job: {job} is negative.")
    return job * job, os.getpid()


def wait(job: float) -> float:
    time.sleep(job)
    return job


def test_one_worker_goes_in_order_and_stays_in_this_process():
    assert list(each(square, [3, 1, 2])) == [(job, (job * job, os.getpid())) for job in (3, 1, 2)]


def test_several_workers_give_the_same_from_other_processes():
    found = dict(each(square, [3, 1, 2], workers=2))
    assert {job: value for job, (value, _) in found.items()} == {1: 1, 2: 4, 3: 9}
    assert os.getpid() not in {pid for _, pid in found.values()}


def test_no_job_is_begun_after_the_end():
    left = iter([True, True, False])
    assert [job for job, _ in each(square, [1, 2, 3], more=lambda: next(left))] == [1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_is_that_of_the_whole(workers):
    with pytest.raises(InvalidInput, match="negative"):
        list(each(square, [-1], workers))


def test_nothing_to_do_is_no_error():
    assert list(each(square, [], workers=3)) == []


def test_who_wants_no_more_does_not_wait_for_what_is_running():
    found = each(wait, [0.0, 200.0], workers=2)
    assert next(found) == (0.0, 0.0)
    found.close()
    assert active_children() == []
