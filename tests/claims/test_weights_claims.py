"""The rules of the claims of the weights home decide both ways, on made rows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from recollect.catalogue import SYSTEMS
from recollect.claims import cmt, mac
from recollect.claims.claim import Row, Setting, load

HOLDS: dict[str, dict[str, dict[str, float]]] = {
    "rehearsal-free": {
        "nothing but the local loss": {"accuracy": 0.2},
        "prediction": {"accuracy": 0.3},
        "prediction + L2": {"accuracy": 0.4},
        "prediction + EWC": {"accuracy": 0.38},
        "prediction + features": {"accuracy": 0.41},
        "prediction + L2, attention only": {"accuracy": 0.4},
        "digits: loss over all classes": {"accuracy": 0.2},
        "digits: local loss": {"accuracy": 0.5},
    },
    "refresh": {
        "DER++, refresh": {"accuracy": 0.8, "p": 0.01},
        "DER++, random direction": {"accuracy": 0.78},
        "DER++, reversed direction": {"accuracy": 0.78},
    },
    "cl-thesis": {
        "nothing": {"accuracy": 0.2},
        "local loss": {"accuracy": 0.35},
        "MAS": {"accuracy": 0.5},
        "task-free MAS": {"accuracy": 0.46, "plateaus": 5.0},
        "replay": {"accuracy": 0.5, "BWT": -0.5},
        "MIR": {"accuracy": 0.55, "BWT": -0.4},
        "replay, tasks 10:1": {"accuracy": 0.4},
        "GSS, tasks 10:1": {"accuracy": 0.45},
        "Expert Gate": {"accuracy": 0.6, "routed right": 0.9},
    },
    "scole": {
        "SGD": {"after 20": 0.3, "after 50": 0.6, "after 500": 0.95},
        "Adam": {"after 500": 0.95},
        "SGD, masked": {"after 20": 0.5, "after 50": 0.7},
        "SGD, momentum 0.9": {"after 500": 0.1},
        "five disjoint tasks, once": {"after 500": 0.2},
    },
    "mos": {
        "MOS": {"accuracy": 0.7, "adapter right at first": 0.7, "adapter right": 0.75},
        "one adapter, task after task": {"accuracy": 0.4},
        "class means of frozen features": {"accuracy": 0.65},
        "MOS, head not aligned": {"accuracy": 0.5},
    },
    "ecotta": {
        "EcoTTA": {
            "error, round 1": 0.3,
            "error, last round": 0.3,
            "clean before": 0.98,
            "clean after": 0.97,
            "MB, 8 blocks": 4.0,
        },
        "TENT": {"error, round 1": 0.32, "error, last round": 0.32, "MB, 8 blocks": 9.0},
        "EcoTTA, nothing holds it (strength 0)": {"error, round 1": 0.3, "error, last round": 0.35},
    },
    "prompttpp": {
        "PromptTPP": {"nats": 1.4, "forgotten": 0.2, "at a return": 1.5},
        "no pool, task after task": {"nats": 1.5, "forgotten": 0.3, "at a return": 1.6},
    },
    "cmt": {
        "CMT": {"right@10": 0.9, "right@200": 0.8},
        "without self-matching, all memories": {"right@10": 0.4, "right@200": 0.1},
        "mean of all memories": {"right@200": 0.1},
        "no memory": {"right@200": 0.05},
        "document in the text": {"right@200": 1.0},
    },
    "mac": {
        "MAC": {
            "right@50": 0.9,
            "right@200": 0.85,
            "right@200, groups": 0.8,
            "first 50@200": 0.85,
            "MiB to train": 8.0,
        },
        "MAC, gradients through every document": {"right@200": 0.87, "MiB to train": 20.0},
        "fine-tuning, one step a document": {"right@200": 0.1, "first 50@200": 0.1},
        "mean of the bank": {"right@200": 0.1},
        "no memory": {"right@200": 0.05},
    },
}
BREAKS = [  # key, row, what it is instead
    ("rehearsal-free", "prediction + EWC", {"accuracy": 0.4}),
    ("rehearsal-free", "prediction + L2", {"accuracy": 0.43}),
    ("rehearsal-free", "prediction", {"accuracy": 0.36}),
    ("rehearsal-free", "digits: local loss", {"accuracy": 0.4}),
    ("refresh", "DER++, refresh", {"p": 0.06}),
    ("refresh", "DER++, random direction", {"accuracy": 0.8}),
    ("refresh", "DER++, reversed direction", {"accuracy": 0.81}),
    ("cl-thesis", "nothing", {"accuracy": 0.35}),
    ("cl-thesis", "MAS", {"accuracy": 0.39}),
    ("cl-thesis", "task-free MAS", {"accuracy": 0.4}),
    ("cl-thesis", "task-free MAS", {"plateaus": 9.0}),
    ("cl-thesis", "MIR", {"accuracy": 0.49}),
    ("cl-thesis", "MIR", {"BWT": -0.6}),
    ("cl-thesis", "GSS, tasks 10:1", {"accuracy": 0.4}),
    ("cl-thesis", "Expert Gate", {"routed right": 0.7}),
    ("scole", "SGD", {"after 500": 0.9}),
    ("scole", "Adam", {"after 500": 0.85}),
    ("scole", "SGD, masked", {"after 50": 0.5}),
    ("scole", "SGD, momentum 0.9", {"after 500": 0.7}),
    ("scole", "five disjoint tasks, once", {"after 500": 0.4}),
    ("mos", "one adapter, task after task", {"accuracy": 0.55}),
    ("mos", "class means of frozen features", {"accuracy": 0.7}),
    ("mos", "MOS, head not aligned", {"accuracy": 0.75}),
    ("mos", "MOS", {"adapter right": 0.7}),
    ("ecotta", "TENT", {"error, round 1": 0.29}),
    ("ecotta", "TENT", {"MB, 8 blocks": 7.0}),
    ("ecotta", "EcoTTA", {"error, last round": 0.32}),
    ("ecotta", "EcoTTA", {"clean after": 0.95}),
    ("ecotta", "EcoTTA, nothing holds it (strength 0)", {"error, last round": 0.305}),
    ("prompttpp", "PromptTPP", {"nats": 1.5}),
    ("prompttpp", "PromptTPP", {"forgotten": 0.35}),
    ("prompttpp", "PromptTPP", {"at a return": 1.7}),
    ("cmt", "CMT", {"right@200": 0.55}),
    ("cmt", "without self-matching, all memories", {"right@200": 0.76}),
    ("cmt", "without self-matching, all memories", {"right@10": 0.15}),
    ("cmt", "mean of all memories", {"right@200": 0.76}),
    ("cmt", "no memory", {"right@200": 0.76}),
    ("mac", "MAC", {"right@50": 0.96}),
    ("mac", "MAC", {"right@200, groups": 0.74}),
    ("mac", "MAC", {"MiB to train": 10.1}),
    ("mac", "MAC, gradients through every document", {"right@200": 0.91}),
    ("mac", "fine-tuning, one step a document", {"right@200": 0.81}),
    ("mac", "fine-tuning, one step a document", {"first 50@200": 0.81}),
    ("mac", "mean of the bank", {"right@200": 0.81}),
    ("mac", "no memory", {"right@200": 0.81}),
]


def rows_of(key: str, name: str = "", values: dict[str, float] | None = None) -> dict[str, Row]:
    rows = {each: Row(each, "baseline", figures) for each, figures in HOLDS[key].items()}
    if values is not None:
        rows[name] = Row(name, "baseline", {**HOLDS[key][name], **values})
    return rows


@pytest.mark.parametrize("key", HOLDS)
def test_a_claim_holds_where_its_rule_is_met(key):
    assert load(key).decide(rows_of(key))


@pytest.mark.parametrize(("key", "name", "values"), BREAKS)
def test_and_fails_where_one_part_of_it_is_not(key, name, values):
    assert not load(key).decide(rows_of(key, name, values))


def test_cmt_is_measured_in_every_way_at_both_scales():
    for scale in ("small", "full"):
        rows = list(cmt.measure(Setting(scale=scale), lambda line: None, 2, (3,)))
        assert {row.name for row in rows} == set(HOLDS["cmt"])
        assert all(set(row.values) == {"right@3", "sd"} and 0 <= row.values["right@3"] <= 1 for row in rows)


def test_mac_is_measured_in_every_way():
    size = mac.Size(20, 2, num_steps=2, sizes=(2, 4), batch_documents=4, teaching_steps=2)
    rows = list(mac.measure(Setting(), lambda line: None, size))
    assert {row.name for row in rows} == {*HOLDS["mac"], "MAC, no groups in training", "document in the text"}
    assert all(0 <= row.values["right@4"] <= 1 for row in rows)
    found = {row.name: row.values for row in rows}
    assert set(found["MAC"]) == {"right@2", "right@4", "first 2@4", "right@4, groups", "MiB to train"}
    assert set(found["fine-tuning, one step a document"]) == {"right@2", "right@4", "first 2@4"}
    assert found["MAC"]["MiB to train"] < found["MAC, gradients through every document"]["MiB to train"]


def test_the_claims_are_loaded_without_what_only_searching_text_needs():
    modules = [entry.claim for entry in SYSTEMS if entry.home == "weights"]
    lines = [
        "import sys",
        "sys.modules['Stemmer'] = sys.modules['usearch'] = None",
        *(f"import {each}" for each in modules),
    ]
    subprocess.run([sys.executable, "-c", "; ".join(lines)], check=True, timeout=120)
