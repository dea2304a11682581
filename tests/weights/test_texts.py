"""Tasks from text: which tokens are learned, and what files may hold."""

from __future__ import annotations

import json
import lzma

import pytest

from recollect.errors import InvalidInput, NotFound
from recollect.weights.texts import (
    Document,
    Edit,
    Question,
    answer_rows,
    documents,
    instructions,
    read_edits,
    read_questions,
    read_texts,
    text_rows,
)
from words import tokenizer

TOKENIZER = tokenizer()


def told(rows, row=0):
    """(tokens of a row, those that are learned), as words."""
    ids, labels = rows.tensors["input_ids"][row], rows.tensors["labels"][row]
    return [TOKENIZER.convert_ids_to_tokens([int(each) for each in part]) for part in (ids, labels[labels != -100])]


def test_texts_are_packed_and_every_token_is_learned():
    rows = text_rows(TOKENIZER, ["ana likes tea", "bo lives in the town"], 4)
    assert told(rows)[0] == ["<bos>", "ana", "likes", "tea"]
    assert told(rows, 1)[0] == ["<bos>", "bo", "lives", "in"]
    assert len(rows) == 2  # what does not fill a window is left out
    assert rows.tensors["labels"].equal(rows.tensors["input_ids"])


def test_a_text_shorter_than_a_window_is_one_row():
    assert told(text_rows(TOKENIZER, ["ana likes tea"], 64))[1] == ["<bos>", "ana", "likes", "tea"]
    with pytest.raises(InvalidInput, match="texts: there is no text"):
        text_rows(TOKENIZER, [" "], 8)


def test_of_a_question_the_answer_alone_is_learned_and_a_long_prompt_loses_its_beginning():
    rows = answer_rows(TOKENIZER, [Question("the town of ana is", "red"), Question("bo", "tea")], 16)
    assert told(rows) == [["<bos>", "the", "town", "of", "ana", "is", "red", "<eos>"], ["red", "<eos>"]]
    assert told(rows, 1)[0] == ["<bos>", "bo", "tea", "<eos>", "<pad>", "<pad>", "<pad>", "<pad>"]
    assert rows.tensors["attention_mask"][1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert told(answer_rows(TOKENIZER, [Question("the town of ana is", "red")], 5))[0] == [
        "<bos>",
        "ana",
        "is",
        "red",
        "<eos>",
    ]
    with pytest.raises(InvalidInput, match="tokens: an answer takes 3 of 4"):
        answer_rows(TOKENIZER, [Question("ana", "red tea")], 4)


def test_a_tokenizer_without_first_and_last_token_will_do():
    rows = answer_rows(tokenizer(ends=False), [Question("ana likes", "tea"), Question("bo", "tea")], 8)
    assert rows.tensors["input_ids"].shape == (2, 3)


def test_instructions_and_documents_become_tasks_with_questions():
    question = Question("ana likes", " tea")
    task = instructions(TOKENIZER, "tastes", [question], [question], 16)
    assert (task.name, task.questions, len(task.train)) == ("tastes", (question,), 1)
    [update] = documents(TOKENIZER, [Document("news", "bo lives in the town", (question,))], 8)
    assert (update.name, update.questions) == ("news", (question,))


def test_edits_are_read_and_errors_name_the_line(tmp_path):
    file = tmp_path / "edits.jsonl"
    record = {"prompt": "ana lives in", "target": " town", "paraphrases": ["the home of ana is"]}
    file.write_text(json.dumps(record) + "\n\n", "utf-8")
    assert read_edits(file) == [Edit("ana lives in", " town", ("the home of ana is",))]
    for line, match in (
        ('{"prompt": "x"}', "target: line 1"),
        ("[1]", "file: line 1"),
        ('{"prompt": "x", "target": "y", "unrelated": "z"}', "unrelated: line 1"),
    ):
        file.write_text(line, "utf-8")
        with pytest.raises(InvalidInput, match=match):
            read_edits(file)
    with pytest.raises(NotFound, match="file: there is no"):
        read_edits(tmp_path / "none.jsonl")


def test_questions_are_read_in_three_forms_and_by_split(tmp_path):
    file = tmp_path / "questions.jsonl.xz"
    lines = [
        {"prompt": "ana likes", "answer": " tea"},
        {"instruction": "Say where.", "input": "bo", "output": "town"},
        {"sentence": "rain", "label": "blue", "split": "test"},
        {"sentence": "sun", "label": "red", "split": "train"},
    ]
    with lzma.open(file, "wt", encoding="utf-8") as out:
        out.write("\n".join(json.dumps(line) for line in lines))
    assert read_questions(file, "test") == [
        Question("ana likes", " tea"),
        Question("Say where.\nbo\nAnswer:", " town"),
        Question("rain\nAnswer:", " blue"),
    ]
    assert len(read_questions(file)) == 4


def test_texts_are_read_from_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("two", "utf-8")
    (tmp_path / "a.md").write_text("one", "utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n', "utf-8")
    (tmp_path / "d.pdf").write_text("no", "utf-8")
    assert read_texts(tmp_path) == ["one", "two", "three"]
    with pytest.raises(NotFound, match="text: there are no"):
        read_texts(tmp_path / "d.pdf")


def test_real_classification_tasks_are_read(data):
    folder = data / "cl-benchmark"
    if not folder.is_dir():
        pytest.skip("no cl-benchmark in the measuring data")
    for split, most in (("train", 4000), ("test", 1000)):
        assert 0 < len(read_questions(folder / "agnews.jsonl.xz", split)) <= most
