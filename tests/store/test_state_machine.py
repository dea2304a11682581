"""A model-based test: whatever the order of calls, the memory agrees with a plain list of what was said and forgotten."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import recollect

WORDS = ["river", "violin", "alpaca", "bakery", "tuesday", "kiln", "harbour", "walnut", "cello", "stairs"]
USERS, SESSIONS = ("ana", "ben"), ("s1", "s2")
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


class MemoryMachine(RuleBasedStateMachine):
    """Two users on one file; the model maps each episode's id to (user, text, session, day)."""

    episodes = Bundle("episodes")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[str, tuple[str, str, str, int]] = {}
        self.memories = {user: self._open(user) for user in USERS}

    def _open(self, user: str) -> recollect.Memory:
        return recollect.open(self.folder / "memory.db", user=user, embedder="hashing")

    def teardown(self) -> None:
        for memory in self.memories.values():
            assert memory.verify().problems == ()
            memory.close()
        shutil.rmtree(self.folder)

    @rule(
        target=episodes,
        user=st.sampled_from(USERS),
        text=texts,
        session=st.sampled_from(SESSIONS),
        day=st.integers(1, 28),
    )
    def add(self, user: str, text: str, session: str, day: int) -> str:
        episode = self.memories[user].add(text, session=session, at=f"2024-01-{day:02}T12:00+00:00")
        known = [id_ for id_, value in self.model.items() if value == (user, text, session, day)]
        assert known in ([], [episode.id])
        self.model[episode.id] = (user, text, session, day)
        return episode.id

    @rule(
        target=episodes, user=st.sampled_from(USERS), items=st.lists(st.tuples(texts, st.integers(1, 28)), max_size=6)
    )
    def add_many(self, user: str, items: list[tuple[str, int]]):
        memory = self.memories[user]
        memory.add_many({"text": text, "session": "bulk", "at": f"2024-01-{day:02}T12:00+00:00"} for text, day in items)
        found = {(episode.text, episode.at.day): episode.id for episode in memory.episodes(session="bulk")}
        for text, day in items:
            self.model[found[text, day]] = (user, text, "bulk", day)
        return multiple(*(found[item] for item in items))

    @rule(user=st.sampled_from(USERS), query=texts, k=st.integers(1, 60))
    def recall(self, user: str, query: str, k: int) -> None:
        hits = self.memories[user].recall(query, k=k)
        mine = {id_ for id_, value in self.model.items() if value[0] == user}
        assert len({hit.id for hit in hits}) == len(hits) == min(k, len(mine))
        for hit in hits:
            assert self.model[hit.id][:2] == (user, hit.text)

    @rule(user=st.sampled_from(USERS), query=texts, day=st.integers(1, 28), session=st.sampled_from(SESSIONS))
    def recall_then(self, user: str, query: str, day: int, session: str) -> None:
        hits = self.memories[user].recall(query, k=60, at=f"2024-01-{day:02}T12:00+00:00", session=session)
        wanted = {
            id_ for id_, (who, _, where, when) in self.model.items() if (who, where) == (user, session) and when <= day
        }
        assert {hit.id for hit in hits} == wanted

    @rule(id_=episodes)
    def forget_one(self, id_: str) -> None:
        if id_ in self.model:
            user = self.model.pop(id_)[0]
            assert self.memories[user].forget([id_]).episodes == (id_,)

    @rule(user=st.sampled_from(USERS), word=st.sampled_from(WORDS))
    def forget_word(self, user: str, word: str) -> None:
        gone = {id_ for id_, value in self.model.items() if value[0] == user and word in value[1].split()}
        assert set(self.memories[user].forget(query=word).episodes) == gone
        for id_ in gone:
            del self.model[id_]

    @rule(user=st.sampled_from(USERS))
    def reopen(self, user: str) -> None:
        self.memories[user].close()
        self.memories[user] = self._open(user)

    @rule(user=st.sampled_from(USERS))
    def reindex(self, user: str) -> None:
        self.memories[user].reindex()

    @invariant()
    def nothing_is_lost(self) -> None:
        for user, memory in self.memories.items():
            stored = {
                episode.id: (user, episode.text, episode.session, episode.at.day) for episode in memory.episodes()
            }
            assert stored == {id_: value for id_, value in self.model.items() if value[0] == user}


MemoryMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestMemoryMachine = MemoryMachine.TestCase


def test_the_same_on_postgresql(postgres: Any) -> None:
    class OnPostgres(MemoryMachine):
        def __init__(self) -> None:
            self.database = postgres.database()
            self.url = self.database.__enter__()
            super().__init__()

        def _open(self, user: str) -> recollect.Memory:
            return recollect.open(self.url, user=user, embedder="hashing")

        def teardown(self) -> None:
            super().teardown()
            self.database.__exit__(None, None, None)

    few = settings(MemoryMachine.TestCase.settings, max_examples=4, stateful_step_count=15)
    run_state_machine_as_test(OnPostgres, settings=few)
