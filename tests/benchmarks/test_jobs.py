"""Work in several processes side by side."""

import os
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

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


def test_processes_end_when_their_caller_is_killed(tmp_path):
    """The script writes the number of the process that does the job, which would sleep for long."""
    script = (
        "from pathlib import Path\nimport os, time\nfrom recollect.benchmarks.jobs import each\n"
        "def work(job):\n    Path(job).write_text(str(os.getpid()))\n    time.sleep(200)\n"
        "if __name__ == '__main__':\n    list(each(work, ['here', 'there'], 2))\n"
    )
    (tmp_path / "script.py").write_text(script, "utf-8")
    caller = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    files = [tmp_path / name for name in ("here", "there")]
    until(lambda: all(file.exists() and file.read_text("utf-8") for file in files))
    caller.kill()
    caller.wait()
    until(lambda: not any(runs(file.read_text("utf-8")) for file in files))


def runs(pid: str) -> bool:
    """Whether a process is there, and not only its exit status."""
    try:
        os.kill(int(pid), 0)
        stat = Path("/proc", pid, "stat")
        return not stat.exists() or stat.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def until(reached):
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_who_wants_no_more_does_not_wait_for_what_is_running():
    found = each(wait, [0.0, 200.0], workers=2)
    assert next(found) == (0.0, 0.0)
    found.close()
    assert active_children() == []
