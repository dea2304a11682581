"""Made tasks for layers with a state: each answered by reading the rows, and a model that learns one."""

from __future__ import annotations

import re

import pytest
import torch

from recollect.benchmarks.state_tasks import (
    IGNORED,
    adding,
    both_sides,
    delayed,
    drifting_level,
    far_recall,
    fit,
    induction,
    intersection,
    listops,
    mqar_task,
    paired_recall,
    scenes,
    score,
    selective_copying,
    waves,
)
from recollect.errors import InvalidInput
from recollect.state.trainer import Plan


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_follow_from_their_seed():
    for task in (mqar_task(4, 32, 32), selective_copying(4, 32), induction(32), listops(64), far_recall(4, 8, 16)):
        one, again, other = task.make(5, 1), task.make(5, 1), task.make(5, 2)
        assert torch.equal(one[0], again[0])
        assert torch.equal(one[1], again[1])
        assert not torch.equal(one[0], other[0])
        assert int(one[0].max()) < task.vocabulary
        assert one[0].shape == one[1].shape


def test_selective_copying_says_the_letters_in_order():
    tokens, labels = selective_copying(5, 30, 7).make(6, 0)
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        assert [letter for letter in row[:30] if letter] == label[30:]
        assert label[:30] == [IGNORED] * 30
        assert row[30:] == [8] * 5
    with pytest.raises(InvalidInput, match="num_data: 9 letters do not fit into 8 tokens"):
        selective_copying(9, 8)


def test_induction_says_what_followed_the_mark():
    tokens, labels = induction(20, 6).make(50, 0)
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        assert row.count(6) == 2
        assert row[-1] == 6
        assert label == [IGNORED] * 19 + [row[row.index(6) + 1]]
    with pytest.raises(InvalidInput, match="length: 3 is too short"):
        induction(3)


def test_listops_has_the_value_of_what_is_written():
    def value(text: str) -> int:
        """The value of an expression, innermost brackets first."""
        names = {"10": min, "11": max, "12": lambda x: sorted(x), "13": lambda x: sum(x) % 10}
        while " " in text:
            inner = re.search(r"(1[0-3])((?: \d)+) 14", text)
            found = [int(digit) for digit in inner[2].split()]
            result = names[inner[1]](found)
            if isinstance(result, list):
                middle = len(result) // 2
                result = result[middle] if len(result) % 2 else int((result[middle - 1] + result[middle]) / 2)
            text = text[: inner.start()] + str(result) + text[inner.end() :]
        return int(text)

    tokens, labels = listops(64, shortest=8).make(20, 0)
    depths = set()
    for row, label in zip(tokens.tolist(), labels[:, -1].tolist(), strict=True):
        said = [token for token in row if token != 15]
        assert 8 <= len(said) <= 64
        assert value(" ".join(map(str, said))) == label
        depths.add(sum(token >= 10 for token in said))
    assert len(depths) > 2
    assert (labels[:, :-1] == IGNORED).all()


def test_far_recall_asks_every_key_once_after_the_gap():
    tokens, labels = far_recall(3, 10, 12).make(8, 0)
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        told = dict(zip(row[0:6:2], row[1:6:2], strict=True))
        assert row[6:16] == [0] * 10
        assert {row[at]: label[at] for at in (16, 18, 20)} == told
    with pytest.raises(InvalidInput, match="num_pairs: 6 keys of 5"):
        far_recall(6, 1, 12)


def test_the_common_token_is_in_both_sets_in_either_order():
    tokens, labels = intersection(2, 5, 10).make(9, 0)
    for number, (row, label) in enumerate(zip(tokens.tolist(), labels.tolist(), strict=True)):
        at = row.index(10)
        one, two = set(row[:at]), set(row[at + 1 : -2])
        assert (len(one), len(two)) == ((2, 5) if number % 2 == 0 else (5, 2))
        assert one & two == {label[-1]}
        assert row[-2:] == [10, 11]
    twice, _ = intersection(2, 5, 10, times=2).make(9, 0)
    assert torch.equal(twice[:, :9], tokens[:, :9])
    assert torch.equal(twice[:, 9:17], tokens[:, :8])
    with pytest.raises(InvalidInput, match="vocabulary: 5 tokens do not make sets of 2 and 5"):
        intersection(2, 5, 5)


def test_signals_and_their_targets():
    x, target = adding(50, 12, generator())
    assert (x[..., 1].sum(1) == 2).all()
    torch.testing.assert_close((x[..., 0] * x[..., 1]).sum(1), target)
    x, labels = both_sides(10, 12, generator())
    bits = x.argmax(-1)
    assert (labels[:, 3:9] == (bits[:, :6] != bits[:, 6:])).all()
    assert (labels[:, :3] == IGNORED).all()
    x, target = delayed(40, 60, generator(), 20)
    assert torch.equal(target[:, 20:], x[:, :40, 0])
    assert target[:, :20].isnan().all()
    assert 0.8 < x.var() < 1.2
    x, labels = waves(30, 64, generator())
    strongest = torch.fft.rfft(x[..., 0]).abs().argmax(-1)
    assert torch.equal(strongest, labels + 2)


def test_a_model_learns_a_small_task_and_guesses_before():
    task = mqar_task(1, 8, 8)
    blocks = [{"layer": "linear-attention", "num_heads": 1}]
    untrained = fit(task, blocks, 16, Plan(num_steps=1, learning_rate=0.0), 4)
    model = fit(task, blocks, 16, Plan(num_steps=60, learning_rate=2e-2, warmup_steps=5), 16)
    assert score(untrained, task, 64) < 0.5
    assert score(model, task, 64) > 0.9


def test_paired_recall_asks_for_what_was_told():
    tokens, labels = paired_recall(48, 4, gap_tokens=16).make(5, 0)
    for row, said in zip(tokens.tolist(), labels.tolist(), strict=True):
        told = {(token - 8) // 4: (token - 8) % 4 for token in row[:4]}
        asked = {row[at] - 40: label for at, label in enumerate(said) if label >= 0}
        assert asked == told
        assert min(at for at, label in enumerate(said) if label >= 0) >= 20


def test_the_level_drifts_slowly_and_is_asked_for():
    tokens, labels = drifting_level(64).make(200, 0)
    assert ((labels >= 0) == (tokens == 16)).all()
    assert set(labels[labels >= 0].tolist()) == {17, 18}
    readings = tokens.float().masked_fill(tokens == 16, torch.nan)
    above = readings.nanmean(1) > 8  # what the mean of a row says of its level
    right = [float(label == 17 + int(high)) for row, high in zip(labels, above, strict=True) for label in row[row >= 0]]
    assert sum(right) / len(right) > 0.65


def test_questions_on_scenes_answered_by_hand():
    tokens, answers, relation = scenes(200, generator(3))
    for scene, answer, related in zip(tokens, answers.tolist(), relation.tolist(), strict=True):
        colours, shapes = scene[:6, :6].argmax(1).tolist(), scene[:6, 6:8].argmax(1).tolist()
        places = scene[:6, 8:10]
        assert sorted(colours) == list(range(6))
        me = colours.index(int(scene[6, 10:16].argmax()))
        kind = int(scene[6, 16:].argmax())
        far = [float((place - places[me]).norm()) for place in places]
        others = [number for number in range(6) if number != me]
        expected = [
            2 + shapes[me],
            int(places[me, 0] < 0.5),
            int(places[me, 1] < 0.5),
            2 + shapes[min(others, key=far.__getitem__)],
            2 + shapes[max(others, key=far.__getitem__)],
            3 + shapes.count(shapes[me]),
        ]
        assert answer == expected[kind]
        assert related is (kind >= 3)
