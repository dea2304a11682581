"""Nothing is lost, nobody gets in: kill -9, many processes, full disks, hostile strings, deletion down to the bytes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import recollect
from recollect.errors import InvalidInput, RecollectError, StorageFailed

WRITERS = """
import os, signal, sys
import recollect, recollect.store.memory, recollect.store.episodic

def write(path, worker, number, told):
    def tell(word):
        os.write(told, f"{word}\\n".encode())
    memory = recollect.open(path, embedder="hashing")
    tell("ready")
    while True:
        if number % 3:
            memory.add(f"worker {worker} says {number}", session=worker, source_id=f"{worker}-{number}")
        else:
            memory.add_many(
                {"text": f"worker {worker} says {number} bit{part}", "session": worker, "source_id": f"{worker}-{number}.{part}"}
                for part in range(20)
            )
        tell(number)
        if number % 7 == 0:
            memory.recall(f"what did worker {worker} say", k=3)
        if number % 23 == 5:
            memory.forget(query=f"worker {worker} says {number - 1}")
            tell(f"-{number - 1}")
        number += 1

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    path, worker, number, log = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        write(path, worker, int(number), os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY))
    print(child, flush=True)
"""


@pytest.mark.timeout(900)
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path):
    """200 kills at random moments while two processes write, forget and recall on one file.

    The file is checked as a whole every 20 kills, and every acknowledged episode at the end. The writers are forked from a
    process that has imported everything, so that kills fall into their work and not into their start.
    """
    path = tmp_path / "memory.db"
    recollect.open(path, embedder="hashing").close()
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    acknowledged: dict[str, set[int]] = {"anna": set(), "bert": set()}
    forgotten: dict[str, set[int]] = {"anna": set(), "bert": set()}
    doubtful: dict[str, set[int]] = {"anna": set(), "bert": set()}
    reached = {"anna": 1, "bert": 1}
    running: dict[str, tuple[int, Path]] = {}
    parent = subprocess.Popen(
        [sys.executable, "-c", WRITERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert parent.stdin
    assert parent.stdout

    def start(worker: str) -> None:
        log = tmp_path / f"{worker}-{reached[worker]}.log"
        log.touch()
        parent.stdin.write(f"{path}\t{worker}\t{reached[worker]}\t{log}\n")
        running[worker] = int(parent.stdout.readline()), log
        while chance.random() < 0.9 and not log.read_text():  # some kills may come while it opens the file
            time.sleep(0.005)

    def reap(worker: str) -> None:
        process, log = running.pop(worker)
        os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(process, 0)
                time.sleep(0.001)
        for word in log.read_text().split("\n")[:-1]:
            if word.startswith("-"):
                forgotten[worker].add(int(word[1:]))
            elif word != "ready":
                acknowledged[worker].add(int(word))
                reached[worker] = max(reached[worker], int(word) + 1)
        # Whether the last deletion, of one of these, was cut off by the kill or only its acknowledgement, nobody promised.
        doubtful[worker] |= {reached[worker] - 2, reached[worker] - 1}
        reached[worker] += 2

    try:
        for kills in range(1, 201):
            for worker in ("anna", "bert"):
                if worker not in running:
                    start(worker)
            time.sleep(chance.uniform(0.0, 0.08))
            reap(chance.choice(("anna", "bert")))
            if kills % 20 == 0:
                with recollect.open(path) as memory:
                    report = memory.verify()
                    # A deletion that was cut off after its transaction is finished by the next one to open or close.
                    left = [problem.name for problem in report.problems if problem.name != "deletion not finished"]
                    assert left == [], f"seed {seed}, after {kills} kills"
    finally:
        for worker in list(running):
            reap(worker)
        parent.communicate()
    with recollect.open(path) as memory:
        assert memory.verify(repair=True).clean
        assert memory.verify().problems == ()
        stored = {episode.source_id for episode in memory.episodes()}
    assert sum(map(len, acknowledged.values())) > 300, "the writers hardly got to work"
    for worker, numbers in acknowledged.items():
        for number in numbers - forgotten[worker] - doubtful[worker]:
            wanted = [f"{worker}-{number}"] if number % 3 else [f"{worker}-{number}.{part}" for part in range(20)]
            assert stored.issuperset(wanted), f"seed {seed}: acknowledged but gone: {number} of {worker}"
        for number in forgotten[worker]:
            assert f"{worker}-{number}" not in stored, f"seed {seed}: forgotten but there: {number} of {worker}"


def _work(path: str, worker: int, errors: multiprocessing.Queue) -> None:
    try:
        with recollect.open(path, embedder="hashing") as memory:
            for number in range(25):
                memory.add(f"process {worker} wrote line {number}", session=f"p{worker}", at="2024-01-01")
                if number % 5 == 4:
                    texts = {
                        hit.text for hit in memory.recall(f"process {worker} line {number}", k=20, session=f"p{worker}")
                    }
                    assert f"process {worker} wrote line {number}" in texts
    except BaseException as error:
        errors.put(f"{worker}: {error!r}")
        raise


def test_eight_processes_write_and_recall_on_one_file(tmp_path: Path):
    path = str(tmp_path / "memory.db")
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    workers = [context.Process(target=_work, args=(path, number, errors)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 8, errors.get() if not errors.empty() else ""
    with recollect.open(path) as memory:
        assert memory.stats().num_episodes == 200
        assert memory.verify().problems == ()
        for number in range(8):
            positions = [episode.text for episode in memory.episodes(session=f"p{number}")]
            assert positions == [f"process {number} wrote line {line}" for line in range(25)]


def test_a_full_disk_is_a_clear_error_and_no_damage(open_memory):
    memory = open_memory()
    memory.add("kept", at="2024-01-01")
    pages = memory.engine.db.rows("PRAGMA page_count")[0][0]
    memory.engine.db.rows(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StorageFailed, match="disk is full"):
        memory.add_many([{"text": f"{number} " * 4000, "at": "2024-01-01"} for number in range(50)])
    memory.engine.db.rows("PRAGMA max_page_count = 1073741823")
    assert [episode.text for episode in memory.episodes()] == ["kept"]
    assert memory.verify().problems == ()
    memory.add("goes on", at="2024-01-02")
    assert memory.stats().num_episodes == 2


def test_a_file_size_limit_of_the_system_is_a_clear_error_and_no_damage(tmp_path: Path):
    """The system refuses to let the file grow, as a full partition or a quota would."""
    path = tmp_path / "memory.db"
    with recollect.open(path, embedder="hashing") as memory:
        memory.add("kept", at="2024-01-01")
    code = """
import resource, signal, sys, recollect
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
memory = recollect.open(sys.argv[1])
try:
    memory.add_many([{"text": f"{n} " * 3000, "at": "2024-01-01"} for n in range(400)], batch_size=400)
except recollect.errors.StorageFailed as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", "import recollect.errors\n" + code, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "database" in run.stdout
    with recollect.open(path) as memory:
        assert [episode.text for episode in memory.episodes()] == ["kept"]
        assert memory.verify().problems == ()


def test_a_read_only_file_can_be_recalled_but_not_written(tmp_path: Path):
    path = tmp_path / "box" / "memory.db"
    path.parent.mkdir()
    with recollect.open(path, embedder="hashing") as memory:
        memory.add("The key is under the stone.", at="2024-01-01")
    code = """
import sys, recollect, recollect.errors
memory = recollect.open(sys.argv[1])
print(memory.recall("where is the key")[0].text)
try:
    memory.add("more")
except recollect.errors.StorageFailed as error:
    print(error)
try:
    memory.forget(query="key")
except recollect.errors.StorageFailed as error:
    print(error)
memory.close()
"""
    command = [sys.executable, "-c", code, str(path)]
    if os.getuid() == 0:  # permissions bind the superuser only without this capability
        if shutil.which("setpriv") is None:
            pytest.skip("runs as root, and setpriv is not here to take its power away")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        path.parent.chmod(0o755)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "The key is under the stone."
    assert "cannot be written" in lines[1]
    assert "cannot be written" in lines[2]


HOSTILE = [
    'a" OR "b',
    "NEAR(a b, 3)",
    "text:secret",
    "* ^ ( ) { } : - +",
    "a AND NOT b OR (c",
    "'; DROP TABLE episodes; --",
    "\0\0middle\0",
    "%s %d {0} {text}",
    "\u202eright to left\u202c",
    "\ufeff\u200b\u2028\u2029",
    "\U0001f600" * 50,
    "e\u0301" * 100,
    "../../../etc/passwd",
    "<script>alert(1)</script>",
    "a" * 5000,
    "[bold]markup[/]",
    "\x1b[31mred\x07",
    "1e309",
    "NULL",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_go_in_and_come_out_as_they_are(open_memory, text: str):
    memory = open_memory()
    memory.add("An ordinary sentence about the harbour.", at="2024-01-01")
    name = text[:500]
    episode = memory.add(text, speaker=name, session=name, source_id=name, at="2024-01-02", meta={name: text})
    assert memory.get(episode.id) == episode
    memory.recall(text, k=5)
    memory.recall("harbour " + text, session=name, speaker=name)
    memory.answer(text)
    assert memory.history(episode.id).record == episode
    note = memory.note(text, kind=name, sources=[episode.id], meta={"m": text})
    memory.link(note.id, episode.id, name)
    assert memory.verify().problems == ()
    assert set(memory.forget(session=name).episodes) == {episode.id}
    assert memory.verify().problems == ()
    assert memory.stats().num_episodes == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_only_names(open_memory, text: str):
    if len(text) > 1000:
        with pytest.raises(InvalidInput):
            open_memory(user=text)
        return
    memory = open_memory(user=text, agent=text)
    memory.add("mine", at="2024-01-01")
    assert [hit.text for hit in memory.recall("mine")] == ["mine"]
    assert open_memory(user="other").recall("mine") == []


def test_lone_surrogates_and_wrong_types_name_the_field(open_memory):
    memory = open_memory()
    for field in ("text", "speaker", "session", "source_id"):
        with pytest.raises(InvalidInput, match=field):
            memory.add_many([{"text": "x", field: "\udc80"}])
    with pytest.raises(InvalidInput, match="meta"):
        memory.add("x", meta={"a": "\udc80"})
    assert memory.recall("\udc80 x") == []
    assert memory.stats().num_episodes == 0


def test_a_text_of_ten_megabytes(open_memory):
    memory = open_memory()
    text = "".join(f"Line {number} of a very long log about nothing. " for number in range(220_000))
    assert len(text) > 10_000_000
    episode = memory.add(text, at="2024-01-01")
    assert memory.get(episode.id).text == text
    assert memory.recall("line 219999 of the log", k=1)[0].id == episode.id
    memory.recall(text[:1_000_000], k=1)
    with pytest.raises(InvalidInput, match="text"):
        memory.add("x" * (64 * 2**20 + 1))


def _bytes_anywhere(folder: Path, words: list[bytes]) -> list[str]:
    return [
        f"{word!r} in {file.name}"
        for file in folder.rglob("*")
        if file.is_file()
        for word in words
        if word in file.read_bytes()
    ]


@pytest.mark.parametrize("embedder", ["hashing", "minilm"])
def test_forget_leaves_no_trace(tmp_path: Path, embedder: str):
    if embedder == "minilm":
        from recollect.store import minilm

        if reason := minilm.missing():
            pytest.skip(reason)
    path = tmp_path / "memory.db"
    words = [b"xylophone", b"Quetzalcoatl", b"zanzibar", b"marmalade", b"kaleidoscope", b"secretsession"]
    with recollect.open(path, embedder=embedder) as memory:
        memory.add_many(
            {"text": f"Ordinary remark number {number}.", "at": "2024-01-01", "session": "plain"}
            for number in range(300)
        )
        doomed = memory.add(
            "The xylophone of zanzibar was sold. " * 300,
            speaker="Quetzalcoatl",
            session="secretsession",
            at="2024-01-02",
            meta={"k": "marmalade"},
        )
        short = memory.add("xylophone, again", speaker="Quetzalcoatl", session="secretsession", at="2024-01-03")
        kept = next(memory.episodes())
        only = memory.note("zanzibar has a kaleidoscope", kind="fact", sources=[doomed.id])
        both = memory.note("a summary", kind="summary", sources=[doomed.id, kept.id])
        memory.link(only.id, doomed.id, "about")
        memory.link(kept.id, doomed.id, "before")
        memory.recall("xylophone", k=3)
        rows = memory.engine.db.rows(
            "SELECT c.id FROM chunks c JOIN episodes e ON e.seq = c.episode WHERE e.id = ?", (short.id,)
        )
        vector = memory.engine.db.rows("SELECT vector FROM embeddings WHERE chunk = ?", rows[0])[0][0]
        assert memory.engine.index.get([rows[0][0]]).any()
        looked_at = memory.forget(session="secretsession", dry_run=True)
        assert set(looked_at.episodes) == {doomed.id, short.id}
        assert memory.stats().num_episodes == 302
        receipt = memory.forget(session="secretsession")
        assert set(receipt.episodes) == {doomed.id, short.id}
        assert receipt.notes == (only.id,)
        assert receipt.flagged_notes == (both.id,)
        assert receipt.num_links == 2
        assert receipt.num_vectors >= 4
        assert receipt.num_index_entries == 3
        assert receipt.complete
        assert receipt.index_files
        assert not memory.engine.index.get([rows[0][0]]).any()
        assert all("xylophone" not in hit.text for hit in memory.recall("xylophone zanzibar", k=400))
        assert memory.recall("a summary", kinds=["summary"]) == []
        assert _bytes_anywhere(tmp_path, [*words, vector[:64]]) == []
        assert memory.verify().problems == ()
    assert _bytes_anywhere(tmp_path, [*words, vector[:64]]) == []


def test_forgetting_a_user_leaves_nothing_of_them(tmp_path: Path):
    path = tmp_path / "memory.db"
    with (
        recollect.open(path, embedder="hashing", user="heliotrope") as memory,
        recollect.open(path, user="ben") as other,
    ):
        other.add("kept", at="2024-01-01")
        memory.add("a private thing", speaker="heliotrope", at="2024-01-01")
        memory.note("loose note", kind="fact", sources=[])
        with pytest.raises(InvalidInput, match=r"^user"):
            memory.forget(user="ben")
        memory.recall("private")
        other.recall("kept")
        receipt = memory.forget(user="heliotrope")
        assert (len(receipt.episodes), len(receipt.notes)) == (1, 1)
        assert [hit.text for hit in other.recall("kept")] == ["kept"]
    assert _bytes_anywhere(tmp_path, [b"heliotrope", b"private", b"loose note"]) == []


def test_forget_takes_exactly_one_condition(open_memory):
    memory = open_memory()
    memory.add("old", at="2020-01-01")
    memory.add("new", at="2024-01-01")
    for wrong in ({}, {"session": "a", "query": "b"}):
        with pytest.raises(InvalidInput, match="exactly one"):
            memory.forget(**wrong)
    assert len(memory.forget(before="2022-01-01").episodes) == 1
    assert [episode.text for episode in memory.episodes()] == ["new"]
    assert memory.forget(query="new").num_vectors == 1


def test_a_second_process_sees_a_deletion_at_once(open_memory):
    first, second = open_memory(), open_memory()
    episode = first.add("The owl sleeps in the barn.", at="2024-01-01")
    first.add("The fox sleeps in the den.", at="2024-01-01")
    assert second.recall("owl barn", k=1)[0].id == episode.id
    first.forget([episode.id])
    assert [hit.text for hit in second.recall("owl barn")] == ["The fox sleeps in the den."]
    first.add("The owl is back.", at="2024-01-02")
    assert second.recall("owl", k=1)[0].text == "The owl is back."


def test_a_damaged_cache_is_found_and_mended(open_memory):
    memory = open_memory()
    memory.add_many(
        {"text": f"remark {number} about rivers", "session": "s", "at": "2024-01-01"} for number in range(20)
    )
    wanted = [hit.id for hit in memory.recall("remark 7 rivers")]
    run = memory.engine.db.run
    run("DELETE FROM embeddings WHERE chunk < 4")
    run("DELETE FROM chunks WHERE id = 9")
    run("UPDATE term_counts SET num_episodes = num_episodes + 1")
    run("INSERT INTO episodes_fts (episodes_fts, rowid, text) VALUES ('delete', 5, 'remark 4 about rivers')")
    run("PRAGMA foreign_keys = OFF")
    run("INSERT INTO links (source, target, relation, user) VALUES ('ep_nobody', 'ep_noone', 'r', 1)")
    report = memory.verify()
    assert {problem.name for problem in report.problems} == {
        "missing vectors",
        "episodes without chunks",
        "counts of terms and speakers out of step",
        "full-text index of episodes out of step",
        "links to records that do not exist",
        "vector index out of step",
    }
    assert not report.clean
    assert memory.verify(repair=True).clean
    assert memory.verify().problems == ()
    assert [hit.id for hit in memory.recall("remark 7 rivers")] == wanted


def test_a_failing_embedder_keeps_the_text(tmp_path: Path):
    class Flaky:
        name, dim, has_tokens = "flaky-1", 8, False
        works = False

        def split(self, text):
            return [(0, len(text))]

        def embed(self, texts, kind="document"):
            import numpy as np

            from recollect.errors import Unavailable
            from recollect.store.embedders import Embeddings

            if not self.works:
                raise Unavailable("the endpoint does not answer.")
            return Embeddings(np.ones((len(texts), 8), np.float32) / 8**0.5)

    flaky = Flaky()
    with recollect.open(tmp_path / "memory.db", embedder=flaky) as memory:
        with pytest.warns(UserWarning, match="stored without vectors"):
            episode = memory.add("kept all the same")
        assert memory.get(episode.id).text == "kept all the same"
        assert memory.stats().num_missing_vectors == 1
        flaky.works = True
        assert memory.verify(repair=True).clean
        assert memory.stats().num_missing_vectors == 0
        assert memory.recall("kept")[0].id == episode.id


def test_a_change_of_embedder_goes_on_where_it_stopped(tmp_path: Path):
    import numpy as np

    from recollect.store.embedders import Embeddings

    class Slow:
        name, dim, has_tokens = "slow-1", 16, False
        calls = 0

        def split(self, text):
            return [(0, len(text))]

        def embed(self, texts, kind="document"):
            self.calls += len(texts)
            if self.calls == 512:
                raise KeyboardInterrupt
            rows = np.array([[hash(text) >> shift & 15 for shift in range(16)] for text in texts], np.float32) + 1
            return Embeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    path, slow = tmp_path / "memory.db", Slow()
    with recollect.open(path, embedder="hashing") as memory:
        memory.add_many({"text": f"line {number}", "at": "2024-01-01"} for number in range(700))
        with pytest.raises(KeyboardInterrupt):
            memory.reindex(embedder=slow)
        assert memory.recall("line 3", k=1)[0].text == "line 3"
        memory.forget(query="line 5")
        memory.add("line 700", at="2024-01-01")
        slow.calls = 10_000
        assert memory.reindex(embedder=slow) == 700
        assert slow.calls - 10_000 == 700 - 255  # the first batch was kept, less what was forgotten
        assert memory.engine.embedder.name == "slow-1"
        assert memory.verify().problems == ()
        assert "line 3" in {hit.text for hit in memory.recall("line 3", k=50)}
    with pytest.raises(RecollectError):
        recollect.open(path, embedder="hashing")


def test_export_restores_exactly(tmp_path: Path, open_memory):
    memory = open_memory()
    for number, text in enumerate(HOSTILE):
        memory.add(
            text,
            speaker=f"s{number % 3}",
            session=f"t{number % 2}",
            at=f"2024-01-{number + 1:02}T10:00+03:00",
            meta={"n": number},
        )
    episodes = list(memory.episodes())
    note = memory.note(
        "a fact", kind="fact", sources=[episodes[0].id, episodes[1].id], valid_from="2024-01-01", valid_to="2024-02-01"
    )
    memory.link(note.id, episodes[0].id, "from", weight=0.25)
    out = tmp_path / "export.jsonl"
    assert memory.export(out) == len(HOSTILE) + 2
    restored = open_memory(path=tmp_path / "other.db")
    done = restored.import_(out)
    assert (done.episodes, done.notes, done.links, done.existing) == (len(HOSTILE), 1, 1, 0)
    assert list(restored.episodes()) == episodes
    assert restored.get(note.id) == note
    assert restored.history(note.id).links == memory.history(note.id).links
    assert restored.import_(out).existing == len(HOSTILE) + 2
    assert [hit.id for hit in restored.recall("ordinary red markup")] == [
        hit.id for hit in memory.recall("ordinary red markup")
    ]
    again = tmp_path / "again.jsonl"
    restored.export(again)
    assert out.read_text().splitlines()[1:] == again.read_text().splitlines()[1:]


def test_an_export_can_go_to_another_user_of_the_same_file(tmp_path: Path, open_memory):
    memory = open_memory(user="ana")
    episode = memory.add("I like tea.", at="2024-01-01")
    note = memory.note("Ana likes tea", kind="fact", sources=[episode.id])
    memory.link(note.id, episode.id, "from")
    memory.export(tmp_path / "export.jsonl")
    copy = open_memory(user="ben")
    done = copy.import_(tmp_path / "export.jsonl")
    assert (done.episodes, done.notes, done.links) == (1, 1, 1)
    mine = next(copy.episodes())
    assert (mine.text, mine.user, mine.at) == (episode.text, "ben", episode.at)
    assert mine.id != episode.id
    assert copy.history(mine.id).notes[0].sources == (mine.id,)
    assert memory.get(episode.id) == episode


def test_a_cut_or_altered_export_changes_nothing(tmp_path: Path, open_memory):
    memory = open_memory()
    memory.add("one", at="2024-01-01")
    memory.add("two", at="2024-01-02")
    whole = tmp_path / "export.jsonl"
    memory.export(whole)
    lines = whole.read_text().splitlines()
    target = open_memory(path=tmp_path / "target.db")
    broken = {
        "cut": lines[:-1],
        "lost": [lines[0], lines[2], lines[3]],
        "foreign": ['{"a": 1}', *lines[1:]],
        "half": [lines[0], lines[1][:30], *lines[2:]],
        "field": [lines[0], json.dumps({"episode": {"text": "x"}}), *lines[2:]],
        "time": [lines[0], lines[1].replace("2024-01-01", "2024-99-01"), *lines[2:]],
    }
    for name, content in broken.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(content))
        with pytest.raises(InvalidInput):
            target.import_(file)
        assert target.stats().num_episodes == 0, name
    with pytest.raises(InvalidInput, match="cannot be read"):
        target.import_(tmp_path / "nowhere.jsonl")
