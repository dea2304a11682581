"""The store's threads: every part is done once, errors come out, and a forked process has its own."""

import os
import threading

import pytest

from recollect.store import threads


def test_every_part_is_done_once():
    for count in (0, 1, 2, 50):
        done = []
        threads.side_by_side(done.append, range(count))
        assert sorted(done) == list(range(count))


def test_parts_run_at_the_same_time():
    together = threading.Barrier(2)
    threads.side_by_side(lambda part: together.wait(timeout=30), [0, 1])


@pytest.mark.parametrize("bad", [0, 2])
def test_an_error_comes_out(bad):
    def work(part):
        if part == bad:
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        threads.side_by_side(work, [0, 1, 2])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_makes_its_own():
    threads.side_by_side(abs, [1, 2])
    child = os.fork()
    if child == 0:
        done = []
        threads.side_by_side(done.append, [1, 2, 3])
        os._exit(0 if sorted(done) == [1, 2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
