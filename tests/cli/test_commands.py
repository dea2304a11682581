"""Every command as a person types it, with right and with wrong input; the program runs in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recollect.cli.main import COMMANDS, main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """run("add", "text") -> (exit code, standard output, standard error), in an empty folder with a hashing memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECOLLECT_EMBEDDER", "hashing")
    monkeypatch.setenv("RECOLLECT_DB", str(tmp_path / "memory.db"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["recollect", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_add_recall_answer_history_forget(run):
    code, out, _ = run(
        "add", "I moved to Lisbon in May.", "--speaker", "Ana", "--session", "s1", "--at", "2024-05-12T09:30"
    )
    assert code == 0
    assert "Remembered" in out
    episode = json.loads(run("add", "The cat is called Pixel.", "--speaker", "Ana", "--at", "2024-05-13", "--json")[1])
    assert episode["speaker"] == "Ana"
    code, out, _ = run("recall", "Where did Ana move?", "--why")
    assert code == 0
    assert out.index("Lisbon") < out.index("Pixel")
    assert "%" in out
    hits = json.loads(run("recall", "cat", "-k", "1", "--json")[1])
    assert [hit["id"] for hit in hits] == [episode["id"]]
    assert set(hits[0]) >= {"text", "at", "score", "why", "sources"}
    code, out, _ = run("answer", "What is the cat called?")
    assert code == 0
    assert "Pixel" in out
    assert "Pixel" in run("history", episode["id"])[1]
    assert json.loads(run("history", episode["id"], "--json")[1])["record"]["text"] == "The cat is called Pixel."
    code, _, err = run("forget", episode["id"])
    assert code == 2
    assert "--yes" in err
    assert json.loads(run("forget", "--query", "cat", "--dry-run", "--json")[1])["episodes"] == [episode["id"]]
    code, out, _ = run("forget", episode["id"], "--yes")
    assert code == 0
    assert "Forgot 1 episodes" in out
    assert run("history", episode["id"])[0] == 2
    assert run("forget", "--query", "cat", "--yes")[0] == 1


def test_stats_verify_reindex_export_import(run, tmp_path: Path):
    for number in range(5):
        run("add", f"Line {number}", "--at", "2024-01-01")
    stats = json.loads(run("stats", "--json")[1])
    assert stats["num_episodes"] == 5
    assert "5 in 0 sessions" in run("stats")[1]
    assert run("verify")[0] == 0
    assert json.loads(run("verify", "--json")[1])["clean"] is True
    assert "Reindexed 5" in run("reindex")[1]
    assert "Wrote 5 records" in run("export", "out.jsonl")[1]
    other = ("--db", str(tmp_path / "other.db"))
    assert "Restored 5 episodes" in run("import", "out.jsonl", *other)[1]
    assert json.loads(run("import", "out.jsonl", "--json", *other)[1])["existing"] == 5
    assert run("export", "again.jsonl", *other)[0] == 0
    assert Path("out.jsonl").read_text().splitlines()[1:] == Path("again.jsonl").read_text().splitlines()[1:]


def test_import_of_a_table_and_a_diary(run, tmp_path: Path):
    Path("notes.csv").write_text("body,author,date\nBought a kiln,Ana,2024-05-01\nSold two bowls,Ana,2024-06-01\n")
    code, out, _ = run("import", "notes.csv", "--columns", "text=body,speaker=author,at=date")
    assert code == 0
    assert "2 added" in out
    assert "0 added" in run("import", "notes.csv", "--columns", "text=body,speaker=author,at=date")[1]
    Path("diary").mkdir()
    Path("diary/2024-05-12.md").write_text("# Sunday\n\nWalked to the lighthouse.\n")
    assert run("import", "diary")[0] == 0
    assert "lighthouse" in run("recall", "lighthouse", "-k", "1")[1]


def test_standard_input(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lines = tmp_path / "lines.txt"
    lines.write_text("first thing\n\nsecond thing\n")
    environment = {**os.environ, "RECOLLECT_DB": str(tmp_path / "memory.db"), "RECOLLECT_EMBEDDER": "hashing"}
    with lines.open() as stream:
        command = [sys.executable, "-m", "recollect.cli.main", "add", "-", "--lines", "--json"]
        done = subprocess.run(command, stdin=stream, capture_output=True, text=True, env=environment, timeout=60)
    assert json.loads(done.stdout) == {"added": 2, "existing": 0}, done.stderr
    assert "second thing" in run("recall", "second")[1]


def test_init_writes_settings_and_memory(run, tmp_path: Path):
    assert run("init")[0] == 0
    assert (tmp_path / "recollect.toml").is_file()
    assert (tmp_path / "memory.db").is_file()
    assert "left as it is" in run("init")[1]


def test_systems(run):
    listed = json.loads(run("systems", "--json")[1])
    assert {entry["key"] for entry in listed} >= {"episodic", "locomo", "longmemeval"}
    assert set(listed[0]) == {"key", "name", "paper", "arxiv", "year", "home", "target", "claim"}
    assert {entry["home"] for entry in json.loads(run("systems", "--home", "store", "--json")[1])} == {"store"}
    assert "LoCoMo" in run("systems")[1]


def test_doctor_prints_the_fix(run, monkeypatch: pytest.MonkeyPatch):
    run("add", "x")
    code, out, _ = run("doctor")
    assert "sqlite" in out
    found = json.loads(run("doctor", "--json")[1])
    assert found["ok"] is (code == 0)
    assert all(check["fix"] for check in found["checks"] if check["ok"] is False)


def test_demo_plays_every_kind_of_question(run):
    code, out, _ = run("demo", "--json")
    assert code == 0
    played = json.loads(out)
    assert played["added"] > 25
    answers = {entry["kind"]: entry["answer"] for entry in played["answers"]}
    assert "walnut" in answers["a single fact"]["text"]
    assert "19 February 2024" in answers["a time"]["text"]
    assert "Porto" in answers["an update"]["text"]
    assert "Lisbon" in answers["as it was known in June"]["text"]
    assert answers["what cannot be answered"]["abstained"]
    code, out, _ = run("demo")
    assert code == 0
    assert "Try next" in out
    assert "recollect import" in out


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("recall", "x"), "db"),
        (("recall", "x", "--db", "nowhere.db"), "db"),
        (("add", ""), "text"),
        (("add", "x", "--at", "soon"), "at"),
        (("import", "nothing.zip"), "path"),
        (("systems", "--home", "garage"), "home"),
        (("reproduce", "locomoo"), "did you mean 'locomo'"),
        (("reproduce",), "key"),
        (("reproduce", "locomo", "--scale", "huge"), "scale"),
        (("bench", "locomo", "--data", "nowhere"), "path"),
        (("bench", "speed", "--sizes", "many"), "sizes"),
        (("forget",), "db"),
        (("history", "ep_x"), "db"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(run, words, field):
    code, out, err = run(*words)
    assert code == 2
    assert field in err
    assert "Traceback" not in err
    assert out == ""


def test_wrong_input_to_a_memory_that_exists(run):
    run("add", "x")
    for words, field in (
        (("recall", ""), "query"),
        (("recall", "x", "-k", "0"), "k:"),
        (("recall", "x", "--after", "2024-01-02", "--before", "2024-01-01"), "after"),
        (("forget",), "exactly one"),
        (("forget", "--session", "a", "--before", "2024-01-01"), "exactly one"),
        (("history", "ep_x"), "id"),
        (("stats", "--embedder", "x"), "--embedder"),
        (("reindex", "--embedder", "nonsense"), "embedder"),
        (("export", "no/such/folder/x.jsonl"), "path"),
    ):
        code, _, err = run(*words)
        assert code == 2, words
        assert field in err, words
    code, _, err = run("recall", "", "--json")
    assert json.loads(err)["exit_code"] == 2
    Path("bad.csv").write_text("a,b\n1,2\n")
    assert run("import", "bad.csv")[0] == 2
    Path("text.db").write_text("not a database " * 100)
    assert run("stats", "--db", "text.db")[0] == 4


def test_nothing_found_is_exit_code_1(run):
    run("add", "I like tea.", "--at", "2024-01-01")
    assert run("recall", "tea", "--at", "2020-01-01")[0] == 1
    assert run("answer", "What is the capital of Peru?")[0] == 1


def test_control_characters_do_not_reach_the_terminal(run):
    run("add", "red \x1b[31malert\x07 [bold]x[/]", "--speaker", "\x1b]0;title\x07")
    out = run("recall", "alert", "--why")[1]
    assert "\x1b]0" not in out
    assert "\x07" not in out
    assert "[bold]x[/]" in out


@pytest.mark.parametrize("name", [name for names in COMMANDS.values() for name in names])
def test_every_command_has_help(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert "Usage" in out
    if name not in ("bench", "learn", "testbed"):
        assert "Example" in out


def test_version_and_completion(run):
    from recollect import __version__

    assert run("--version")[1].strip().endswith(__version__)
    assert "--install-completion" in run("--help")[1]


def test_a_file_is_copied_into_postgresql_and_used_there(run, postgres, monkeypatch):
    run("add", "I moved to Lisbon in May.", "--speaker", "Ana", "--at", "2024-05-12T09:30")
    with postgres.database() as url:
        code, out, _ = run("copy", "sqlite-to-postgres", "memory.db", url, "--json")
        assert code == 0
        assert json.loads(out)["rows"]["episodes"] == 1
        code, _, err = run("copy", "sqlite-to-postgres", "memory.db", url.replace("app@", "app:s3cret@"))
        assert (code, "not empty" in err, "s3cret" in err) == (2, True, False)
        monkeypatch.setenv("RECOLLECT_DB", url)
        code, out, _ = run("recall", "Where does Ana live?", "--json")
        assert code == 0
        assert "Lisbon" in out
        assert run("add", "I like tea.")[0] == 0
        assert run("verify")[0] == 0
        assert "Episodes" in run("stats")[1]
        code, out, _ = run("doctor")
        assert "2 episodes" in out.replace("\n", " ")
    with postgres.database() as empty:
        code, _, err = run("recall", "anything", "--db", empty)
        assert code == 2
        assert "does not exist" in err
