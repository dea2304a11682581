"""The rules of the claims on layers with a state decide both ways on made rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recollect.claims import jrt_rnn, longvq, lssl, mom, reweaving, rnn_review, synaptic_resonance, titans
from recollect.claims.claim import Row, load

ROWS = {
    "rnn-review": {
        rnn_review.LSTM: {"error": 0.001, "solved": 1.0, "both sides": 0.5},
        rnn_review.ELMAN: {"error": 0.16, "solved": 0.0},
        rnn_review.BOTH: {"both sides": 1.0},
    },
    "lssl": {
        lssl.FIXED: {"error": 0.1},
        lssl.RANDOM: {"error": 0.8},
        lssl.LSTM: {"error": 1.0},
        lssl.FULL: {"trained rate": 1.0, "half rate": 0.9},
        lssl.GRU: {"trained rate": 1.0, "half rate": 0.1},
    },
    "titans": {
        titans.MAC: {"recall": 0.9},
        titans.FIXED: {"recall": 0.2},
        titans.WINDOW: {"recall": 0.1},
    },
    "mom": {mom.MOM: {"recall": 0.6}, mom.ACTIVE: {"recall": 0.5}, mom.TOTAL: {"recall": 0.9}},
    "jrt-rnn": {
        jrt_rnn.PREFIX: {"smaller first": 0.9, "larger first": 0.9},
        jrt_rnn.ONCE: {"smaller first": 0.9, "larger first": 0.5},
    },
    "longvq": {
        longvq.SYSTEM: {"recall": 0.9, "level": 0.75},
        longvq.NO_AVERAGE: {"recall": 0.9, "level": 0.6},
        longvq.ONLY_AVERAGE: {"recall": 0.3, "level": 0.76},
        longvq.LINEAR: {"recall": 0.8, "level": 0.7},
        longvq.FULL: {"recall": 1.0, "level": 0.8},
    },
    "synaptic-resonance": {
        name: {"1:4": 0.9 if name in (synaptic_resonance.SYSTEM, synaptic_resonance.GATE) else 0.5}
        for name in synaptic_resonance.NAMES
    },
    "reweaving": {name: {"far": 0.9 if name in (reweaving.SYSTEM, reweaving.OWN) else 0.5} for name in reweaving.NAMES},
}
BREAKS = [
    ("longvq", longvq.SYSTEM, {"recall": 0.8}),
    ("longvq", longvq.NO_AVERAGE, {"level": 0.74}),
    ("longvq", longvq.LINEAR, {"level": 0.8}),
    ("synaptic-resonance", synaptic_resonance.OPEN, {"1:4": 0.88}),
    ("synaptic-resonance", synaptic_resonance.GATE, {"1:4": 0.95}),
    ("reweaving", reweaving.RANDOM, {"far": 0.88}),
    ("reweaving", reweaving.OWN, {"far": 0.91}),
    ("rnn-review", rnn_review.LSTM, {"solved": 0.4}),
    ("rnn-review", rnn_review.LSTM, {"both sides": 0.7}),
    ("rnn-review", rnn_review.ELMAN, {"error": 0.05}),
    ("rnn-review", rnn_review.BOTH, {"both sides": 0.9}),
    ("lssl", lssl.FIXED, {"error": 0.2}),
    ("lssl", lssl.LSTM, {"error": 0.05}),
    ("lssl", lssl.FULL, {"half rate": 0.7}),
    ("lssl", lssl.FULL, {"trained rate": 0.7, "half rate": 0.7}),
    ("lssl", lssl.GRU, {"half rate": 0.6}),
    ("titans", titans.MAC, {"recall": 0.5}),
    ("titans", titans.FIXED, {"recall": 0.6}),
    ("titans", titans.WINDOW, {"recall": 0.6}),
    ("mom", mom.MOM, {"recall": 0.52}),
    ("jrt-rnn", jrt_rnn.ONCE, {"larger first": 0.85}),
    ("jrt-rnn", jrt_rnn.PREFIX, {"larger first": 0.55}),
    ("jrt-rnn", jrt_rnn.PREFIX, {"smaller first": 0.8}),
]


@pytest.mark.parametrize(("key", "name", "values"), BREAKS)
def test_the_rules_decide_both_ways(key, name, values):
    rows = {row: Row(row, "baseline", found) for row, found in ROWS[key].items()}
    assert load(key).decide(rows)
    rows[name] = replace(rows[name], values={**rows[name].values, **values})
    assert not load(key).decide(rows)
