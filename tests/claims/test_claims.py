"""The harness of claims on a made-up claim that takes no time, and the rules of the real ones on made rows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

import recollect
from recollect.catalogue import SYSTEMS
from recollect.claims import a_mem, locomo, longmemeval, page, tim
from recollect.claims import claim as harness
from recollect.claims.claim import Claim, Row, Setting, load, reproduce, save, save_part
from recollect.errors import InvalidInput, NotFound
from recollect.store.windows import query_window

KEY = "locomo"
ROOT = Path(__file__).resolve().parent.parent.parent


def measure(setting, progress):
    progress(f"measuring with seed {setting.seed}")
    return [
        Row("new", "system", {"recall@5": 0.5 + setting.seed / 10}),
        Row("old", "baseline", {"recall@5": 0.6, "recall@10": 0.7}),
        Row("theirs", "paper", {"recall@5": 0.9}),
    ]


FAKE = Claim(
    key=KEY,
    sentence="New is better than old.",
    figure="90 at 5.",
    experiment="Nothing at all.",
    rule="more recall at 5.",
    measure=measure,
    decide=lambda rows: rows["new"].values["recall@5"] > rows["old"].values["recall@5"],
    devices=("cpu",),
)


@pytest.fixture
def fake(monkeypatch):
    """The harness finds FAKE as every system's claim."""
    monkeypatch.setattr(harness, "load", lambda key: FAKE)


@pytest.mark.parametrize("entry", SYSTEMS, ids=lambda entry: entry.key)
def test_every_claim_says_what_it_tests(entry):
    claim = load(entry.key)
    assert claim.key == entry.key
    for text in (claim.sentence, claim.figure, claim.experiment, claim.rule):
        assert text.endswith(".")
    assert "cpu" in claim.devices


def test_an_unknown_key_is_refused_with_the_one_that_was_meant():
    with pytest.raises(NotFound, match="did you mean 'locomo'"):
        load("locoma")
    with pytest.raises(NotFound, match="recollect systems"):
        reproduce("zzz", Setting())


def test_a_device_that_the_claim_cannot_use_is_refused_before_anything_is_measured(monkeypatch):
    def never(setting, progress):
        raise AssertionError("measured")

    monkeypatch.setattr(harness, "load", lambda key: replace(FAKE, measure=never))
    with pytest.raises(InvalidInput, match=r"device: 'cuda' is not one of cpu\."):
        reproduce(KEY, Setting(device="cuda"))


@pytest.mark.parametrize(("seed", "verdict"), [(0, "does not hold"), (2, "holds")])
def test_the_rule_decides_by_the_measured_rows(fake, seed, verdict):
    lines = []
    result = reproduce(KEY, Setting(seed=seed), lines.append)
    assert lines == [f"measuring with seed {seed}"]
    assert result.holds is (verdict == "holds")
    assert result.to_json()["verdict"] == verdict


def test_a_saved_result_says_where_it_came_from(fake, tmp_path):
    path = save(reproduce(KEY, Setting(seed=2, data=tmp_path)), tmp_path / "results")
    assert path == tmp_path / "results" / "claims" / f"{KEY}.json"
    text = path.read_text("utf-8")
    assert str(tmp_path) not in text
    saved = json.loads(text)
    assert saved["rows"] == [
        {"name": "new", "role": "system", "recall@5": 0.7},
        {"name": "old", "role": "baseline", "recall@5": 0.6, "recall@10": 0.7},
        {"name": "theirs", "role": "paper", "recall@5": 0.9},
    ]
    assert {name: saved[name] for name in ("key", "verdict", "scale", "device", "seed", "data")} == {
        "key": KEY,
        "verdict": "holds",
        "scale": "small",
        "device": "cpu",
        "seed": 2,
        "data": True,
    }
    assert 0 <= saved["seconds"] < 5
    assert saved["versions"]["recollect"] == recollect.__version__
    assert saved["machine"]["cores"] >= 1
    assert "commit" in saved
    assert datetime.fromisoformat(saved["date"]).tzinfo is not None


def test_a_full_run_has_a_file_of_its_own(fake, tmp_path):
    save(reproduce(KEY, Setting()), tmp_path)
    save(reproduce(KEY, Setting(scale="full")), tmp_path)
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == [f"{KEY}-full.json", f"{KEY}.json"]


def test_rows_are_kept_as_they_are_measured(fake, tmp_path):
    path, counts, setting = tmp_path / "claims" / f"{KEY}-full.part.json", [], Setting(scale="full", seed=2)

    def keep(rows):
        save_part(KEY, setting, tmp_path, rows)
        counts.append(len(json.loads(path.read_text("utf-8"))["rows"]))

    result = reproduce(KEY, setting, keep=keep)
    text = page.render(tmp_path)
    assert "| **new** | 0.700 |" in text
    assert "**Not finished**: what a run was able to measure (full scale, seed 2, cpu)." in text
    assert "Holds" not in text
    assert counts == [1, 2, 3]
    save(result, tmp_path)
    assert not path.exists()


def test_the_page_has_the_table_and_the_verdict_or_says_that_there_is_none(fake, tmp_path):
    save(reproduce(KEY, Setting(seed=2)), tmp_path)
    save(reproduce(KEY, Setting(scale="full")), tmp_path)
    text = page.render(tmp_path)
    assert text.count("Not measured yet.") == len(SYSTEMS) - 1
    section = text.split(f"(`{KEY}`)")[1].split("## ")[0]
    assert "| | recall@5 | recall@10 |\n|---|---|---|\n" in section
    assert "| **new** | 0.700 |  |" in section
    assert "| old | 0.600 | 0.700 |" in section
    assert "| theirs (paper) | 0.900 |  |" in section
    assert "**Holds** (small scale, seed 2," in section
    assert "**Does not hold** (full scale, seed 0," in section


def committed(key):
    """(rows by name, verdict) of the committed result of a claim."""
    saved = json.loads((ROOT / "results" / "claims" / f"{key}.json").read_text("utf-8"))
    rows = [
        Row(row["name"], row["role"], {name: value for name, value in row.items() if name not in ("name", "role")})
        for row in saved["rows"]
    ]
    return {row.name: row for row in rows}, saved["verdict"]


FLUENT, LOST = {"trained": 3.0, "far": 3.05}, {"trained": 3.0, "far": 4.0}
FOUND, MISSED = (
    {"passkey@0.5x": 1.0, "passkey@2x": 0.8, "attended": 500},
    {"passkey@0.5x": 1.0, "passkey@2x": 0.5, "attended": 512},
)
CONTEXT_ROWS = {
    "streaming-llm": {"streaming-llm": FLUENT, "sliding-window": LOST, "plain": FLUENT, "read anew": FLUENT},
    "lm-infinite": {
        "lm-infinite": FLUENT,
        "streaming-llm": FLUENT,
        "sliding-window": FLUENT,
        "plain": LOST,
        "read anew": FLUENT,
    },
    "sliding-window": {"sliding-window": {"inside": 0.9, "outside": 0.0}, "plain": {"inside": 1.0, "outside": 1.0}},
    "infllm": {"infllm": FOUND, "streaming-llm": MISSED, "lm-infinite": MISSED, "plain": MISSED},
    "em-llm": {
        "em-llm": {"passkey@2x": 0.9, "key-value@2x": 0.8},
        "surprise alone": {"passkey@2x": 0.9, "key-value@2x": 0.9},
        "events of fixed length": {"passkey@2x": 0.8, "key-value@2x": 0.8},
        "infllm": {"passkey@2x": 0.6, "key-value@2x": 1.0},
    },
    "hip": {
        "hip": {"recall@8": 0.9, "exponent": 1.2, "loss": 1.05, "answers": 0.2},
        "blocks at random": {"recall@8": 0.03},
        "streaming-llm": {"loss": 1.1, "answers": 2.0},
        "plain": {"loss": 1.0, "answers": 0.1},
    },
    "rapid": {
        "rapid": {"right@0.75x": 0.9, "right@1.5x": 0.8, "acceptance@0.75x": 0.9, "acceptance@1.5x": 0.8},
        "transfer 0": {"right@0.75x": 0.9, "right@1.5x": 0.5, "acceptance@0.75x": 0.8, "acceptance@1.5x": 0.7},
        "all read, no drafter": {"right@0.75x": 0.9, "right@1.5x": 0.5},
        "excerpts read, no target": {"right@0.75x": 0.8, "right@1.5x": 0.8},
    },
    "think": {
        "think": {"loss@0.4": 3.01, "key bytes@0.4": 0.6} | {f"divergence@{ratio}": 0.01 for ratio in (0.4, 0.6, 0.8)},
        "channels by the norm of keys": {f"divergence@{ratio}": 0.02 for ratio in (0.4, 0.6, 0.8)},
        "channels at random": {f"divergence@{ratio}": 0.5 for ratio in (0.4, 0.6, 0.8)},
        "plain": {"loss": 3.0},
    },
    "sirllm": {
        "sirllm": {"after 2": 0.95, "after 8": 0.8, "after 20": 0.7},
        "streaming-llm": {"after 2": 1.0, "after 8": 0.1, "after 20": 0.0},
        "lm-infinite": {"after 2": 1.0, "after 8": 0.1, "after 20": 0.0},
    },
}


LEARNING_ROWS = {
    "wise": {
        "WISE": {"average": 0.85, "locality": 0.97, "generalisation": 0.8},
        "fine-tuning the layer": {"average": 0.6},
        "codebook of activations": {"average": 0.7, "generalisation": 0.1},
    },
    "migu": {
        "MIGU": {"accuracy": 0.78, "new task": 0.95},
        "fine-tuning": {"accuracy": 0.6, "new task": 0.95},
        "as many units at random": {"accuracy": 0.7},
    },
    "i-lora": {
        "I-LoRA, slow": {"forgetting": 0.1, "new task": 0.9},
        "LoRA in sequence": {"forgetting": 0.4},
        "LoRA with replay": {"forgetting": 0.2, "new task": 0.9},
    },
    "continual-pretraining": {
        "before the second corpus": {"old": 1.8},
        "re-warmed, replay 25%": {"old": 2.1, "new": 2.0, "mean": 2.05},
        "re-warmed, no replay": {"old": 4.5, "new": 1.9},
        "at the floor": {"old": 4.0, "new": 2.1},
        "at the floor, replay 25%": {"old": 2.3, "new": 2.2},
        "both from scratch": {"mean": 2.0},
    },
    "few-shot-memories": {
        "sentences, before studying": {"rouge-L": 0.3},
        "sentences, seen 1x": {"other": 0.97, "exact": 0.1, "rouge-L": 0.5},
        "sentences, seen 3x": {"rouge-L": 0.9},
        "sentences, after 10 updates": {"rouge-L": 0.6},
        "sentences, after 100 updates": {"rouge-L": 0.5, "other": 0.8},
        "random words, seen 3x": {"rouge-L": 0.4},
    },
}


def rows_of(key):
    """Rows on which the claim holds: made ones, or the committed ones."""
    if key in LEARNING_ROWS:
        return {name: Row(name, "baseline", values) for name, values in LEARNING_ROWS[key].items()}
    if key == "episodic":
        from recollect.claims.episodic import NAMES

        return {
            name: Row(
                name,
                "system" if name == "Episodic" else "baseline",
                {"histories@5": value, "histories@10": value + 0.1},
            )
            for name, value in zip(NAMES, (0.8, 0.7, 0.6, 0.5), strict=True)
        }
    if key in CONTEXT_ROWS:
        return {
            name: Row(name, "system" if name == key else "baseline", values)
            for name, values in CONTEXT_ROWS[key].items()
        }
    if key == "longgen":
        recall = {
            "full attention": (0.9, 0.9),
            "LongGen, middle": (0.9, 0.8),
            "LongGen, bottom": (0.9, 0.9),
            "LongGen, top": (0.5, 0.5),
            "LongGen, interleaved": (0.5, 0.5),
            "sparse everywhere": (0.1, 0.1),
            "full, made sparse afterwards": (0.2, 0.2),
        }
        return {
            name: Row(name, "baseline", {"passkey": passkey, "needle": needle})
            for name, (passkey, needle) in recall.items()
        }
    if key == "jrt":
        return {
            f"{name}, {times}": Row(f"{name}, {times}", "system", {"mean": mean})
            for name in ("plain", "streaming-llm", "sirllm", "infllm")
            for times, mean in (("once", 0.5), ("twice", 0.6))
        }
    if key in ("a-mem", "tim"):
        return rows_of_method(key)
    if key != "locomo":
        return committed(key)[0]
    ours = {"recall@5": 0.5, "recall@25": 0.7, "recall@50": 0.8, "single@5": 0.6, "multi@5": 0.3, "temporal@5": 0.7}
    return {
        locomo.SYSTEM: Row(locomo.SYSTEM, "system", ours),
        locomo.FLOOR: Row(locomo.FLOOR, "baseline", {name: value - 0.2 for name, value in ours.items()}),
    }


def rows_of_method(key):
    values = {
        "a-mem": {
            a_mem.BOTH: {"both notes": 0.9},
            a_mem.ONE_WAY: {"both notes": 0.5},
            a_mem.FLAT_2K: {"both notes": 0.1},
            a_mem.FLAT_K: {"both notes": 0.0},
            a_mem.AT_ONCE: {"recall@5": 0.8},
            a_mem.LATER: {"recall@5": 0.1},
            a_mem.NEVER: {"recall@5": 0.1},
        },
        "tim": {
            tim.FLAT: {"recall@1": 1.0, "ms": 4.0},
            tim.HASHED: {"recall@1": 0.97, "ms": 1.0},
            tim.ONE_PROBE: {"recall@1": 0.5, "ms": 0.1},
            tim.ONCE: {"correct": 0.8, "agree": 1.0},
            tim.EACH_TIME: {"correct": 0.8, "agree": 0.3},
            tim.BY_HEAD: {"contradictions": 0, "stale": 0.0, "held": 10},
            tim.BY_BUCKET: {"contradictions": 5, "stale": 0.3, "held": 20},
            tim.INSERT: {"contradictions": 9, "stale": 0.6, "held": 30},
        },
    }[key]
    return {name: Row(name, "baseline", found) for name, found in values.items()}


BREAKS = [  # claim, row, value that breaks it
    ("episodic", "Episodic", {"histories@5": 0.7}),
    ("episodic", "cosine", {"histories@10": 0.95}),
    ("longmemeval", "built-in ranges", {"recall@5": 0.1}),
    ("longmemeval", "rounds, K = V", {"recall@5": 0.99}),
    ("scm", "controller right 100%", {"multi": 0.1}),
    ("scm", "no activation memory", {"multi": 0.9}),
    ("a-mem", "flat 2k", {"both notes": 0.4}),
    ("a-mem", "links one way, as in the code", {"both notes": 0.9}),
    ("a-mem", "evolved, not embedded anew", {"recall@5": 0.3}),
    ("a-mem", "evolved, embedded at once", {"recall@5": 0.2}),
    ("tim", "64 buckets, 16 probed", {"recall@1": 0.9}),
    ("tim", "64 buckets, 16 probed", {"ms": 5.0}),
    ("tim", "thinks once", {"correct": 0.5}),
    ("tim", "thinks at every question", {"agree": 0.9}),
    ("tim", "tidied by head", {"contradictions": 1}),
    ("tim", "tidied by bucket, as in the paper", {"contradictions": 0}),
    ("locomo", locomo.SYSTEM, {"multi@5": 0.5}),
    ("locomo", locomo.SYSTEM, {"recall@50": 0.7}),
    ("locomo", locomo.FLOOR, {"recall@25": 0.7}),
    ("streaming-llm", "streaming-llm", {"far": 3.2}),
    ("streaming-llm", "sliding-window", {"far": 3.1}),
    ("lm-infinite", "lm-infinite", {"far": 3.2}),
    ("lm-infinite", "plain", {"far": 3.1}),
    ("sliding-window", "sliding-window", {"inside": 0.8}),
    ("sliding-window", "sliding-window", {"outside": 0.2}),
    ("sliding-window", "plain", {"outside": 0.5}),
    ("infllm", "plain", {"passkey@2x": 0.7}),
    ("infllm", "infllm", {"attended": 600}),
    ("em-llm", "infllm", {"passkey@2x": 0.9}),
    ("em-llm", "events of fixed length", {"key-value@2x": 0.95}),
    ("sirllm", "lm-infinite", {"after 20": 0.5}),
    ("longgen", "LongGen, middle", {"passkey": 0.6}),
    ("longgen", "sparse everywhere", {"passkey": 0.6, "needle": 0.6}),
    ("longgen", "full, made sparse afterwards", {"passkey": 0.9, "needle": 0.5}),
    ("longgen", "LongGen, top", {"passkey": 1.0, "needle": 1.0}),
    ("jrt", "infllm, twice", {"mean": 0.44}),
    ("jrt", "sirllm, once", {"mean": 0.8}),
    ("sirllm", "sirllm", {"after 2": 0.8}),
    ("hip", "hip", {"recall@8": 0.7}),
    ("hip", "blocks at random", {"recall@8": 0.5}),
    ("hip", "hip", {"exponent": 1.5}),
    ("hip", "hip", {"loss": 1.2}),
    ("hip", "streaming-llm", {"answers": 0.1}),
    ("rapid", "transfer 0", {"acceptance@1.5x": 0.8}),
    ("rapid", "all read, no drafter", {"right@0.75x": 1.0}),
    ("rapid", "excerpts read, no target", {"right@1.5x": 0.9}),
    ("think", "think", {"loss@0.4": 3.05}),
    ("think", "think", {"key bytes@0.4": 0.8}),
    ("think", "channels by the norm of keys", {"divergence@0.6": 0.005}),
    ("think", "channels at random", {"divergence@0.8": 0.01}),
    ("control-llm", "Control LLM", {"old": 3.2}),
    ("control-llm", "Control LLM, no divergence", {"old": 2.7}),
    ("control-llm", "Control LLM, merged back", {"new": 3.5}),
    ("control-llm", "Control LLM, merged back", {"old": 3.6}),
    ("wise", "WISE", {"locality": 0.9}),
    ("wise", "fine-tuning the layer", {"average": 0.9}),
    ("wise", "codebook of activations", {"generalisation": 0.7}),
    ("migu", "MIGU", {"new task": 0.9}),
    ("migu", "as many units at random", {"accuracy": 0.8}),
    ("i-lora", "LoRA with replay", {"forgetting": 0.11}),
    ("i-lora", "I-LoRA, slow", {"new task": 0.8}),
    ("continual-pretraining", "at the floor", {"new": 1.8}),
    ("continual-pretraining", "re-warmed, replay 25%", {"old": 4.0}),
    ("continual-pretraining", "both from scratch", {"mean": 1.8}),
    ("few-shot-memories", "sentences, seen 1x", {"other": 0.8}),
    ("few-shot-memories", "sentences, after 10 updates", {"rouge-L": 0.85}),
    ("few-shot-memories", "random words, seen 3x", {"rouge-L": 0.95}),
]


@pytest.mark.parametrize(("key", "name", "values"), BREAKS)
def test_the_rules_decide_both_ways(key, name, values):
    claim, rows = load(key), rows_of(key)
    assert claim.decide(rows)
    rows[name] = replace(rows[name], values={**rows[name].values, **values})
    assert not claim.decide(rows)


@pytest.mark.parametrize("entry", SYSTEMS, ids=lambda entry: entry.key)
def test_the_committed_verdict_follows_from_the_rows_and_the_paper_decides_nothing(entry):
    rows, verdict = committed(entry.key)
    perfect = {name: 1.0 for row in rows.values() for name in row.values}
    measured = {name: row for name, row in rows.items() if row.role != "paper"}
    assert load(entry.key).decide(measured | {"theirs": Row("theirs", "paper", perfect)}) == (verdict == "holds")


def test_locomo_reads_real_data_from_a_file_a_folder_or_a_folder_of_data_sets(tmp_path):
    folder = tmp_path / "locomo"
    folder.mkdir()
    turn = {"speaker": "Ana", "dia_id": "D1:1", "text": "Hello"}
    record = {
        "sample_id": "one",
        "conversation": {
            "speaker_a": "Ana",
            "speaker_b": "Bob",
            "session_1_date_time": "1:00 pm on 1 May, 2023",
            "session_1": [turn],
        },
        "qa": [],
    }
    file = folder / "locomo10.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    for data in (tmp_path, folder, file):
        assert [sample.conversation.id for sample in locomo.conversations(Setting(data=data))] == ["one"]


def test_the_month_asked_for_holds_the_gold_turn_among_others():
    others = 0
    for user in range(5):
        history, questions = longmemeval._history(0, user)
        for text, gold, asked_at in questions:
            window = query_window(text, asked_at)
            inside = {item["source_id"] for item in history if window.start <= item["at"] < window.end}
            assert [id_ for id_ in inside if id_.startswith("told/")] == [gold]
            others += len(inside) - 1
    assert others > 5 * 4 * 5
