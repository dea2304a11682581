"""A call is timed and made once; a CPU has no peak."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("torch", reason="torch is not installed")
from recollect.benchmarks import clock


def test_a_call_is_made_once_and_its_seconds_are_counted():
    calls = []
    assert clock.timed(lambda: calls.append(time.sleep(0.01)), on_gpu=False) >= 0.01
    assert len(calls) == 1


def test_a_cpu_has_no_peak():
    clock.start_peak(on_gpu=False)
    assert clock.peak(on_gpu=False) is None
    clock.clean(on_gpu=False)
