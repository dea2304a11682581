"""RecollectStore against the real LangGraph: its store's contract beside InMemoryStore, and a graph that uses it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recollect
from recollect.errors import InvalidInput

pytest.importorskip("langgraph", reason="langgraph is not installed")
from langgraph.store.base import GetOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from recollect.integrations.langgraph import RecollectStore


@pytest.fixture
def store(tmp_path: Path):
    with recollect.open(tmp_path / "m.db", embedder="hashing") as memory:
        yield RecollectStore(memory)


def test_an_item_comes_back_and_keeps_the_time_of_its_making(store: RecollectStore):
    store.put(("users", "ana"), "diet", {"text": "Ana eats no meat.", "since": 2021})
    first = store.get(("users", "ana"), "diet")
    assert first is not None
    assert first.value == {"text": "Ana eats no meat.", "since": 2021}
    assert (first.namespace, first.key) == (("users", "ana"), "diet")
    store.put(("users", "ana"), "diet", {"text": "Ana eats fish again."})
    second = store.get(("users", "ana"), "diet")
    assert second is not None
    assert second.value == {"text": "Ana eats fish again."}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert store.get(("users", "ben"), "diet") is None


def test_what_is_overwritten_or_deleted_is_gone_from_the_file(store: RecollectStore, tmp_path: Path):
    store.put(("a",), "secret", {"text": "the word is xylophonic"})
    store.put(("a",), "secret", {"text": "nothing to see"})
    store.put(("a",), "other", {"text": "a zymurgical one"})
    store.delete(("a",), "other")
    store.delete(("a",), "never there")
    assert store.get(("a",), "other") is None
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"xylophonic" not in held
    assert b"zymurgical" not in held
    assert b"nothing to see" in held


def test_search_by_meaning_stays_within_the_namespace(store: RecollectStore):
    store.put(("ana", "likes"), "1", {"text": "Ana likes strong coffee"})
    store.put(("ana", "likes"), "2", {"text": "Ana likes long walks"})
    store.put(("ana", "facts"), "3", {"text": "Ana's coffee grinder broke"})
    store.put(("ben", "likes"), "4", {"text": "Ben likes coffee with milk"})
    store.memory.add("Somebody spilled coffee on the carpet.", session="chat")
    assert {item.key for item in store.search(("ana",), query="coffee")} == {"1", "2", "3"}
    assert store.search(("ana",), query="coffee", limit=2)[0].key in ("1", "3")
    assert [item.key for item in store.search(("ben",), query="coffee")] == ["4"]
    assert store.search(("nobody",), query="coffee") == []
    first = store.search(("ana",), query="coffee", limit=1)
    second = store.search(("ana",), query="coffee", limit=1, offset=1)
    assert first[0].key != second[0].key
    assert first[0].score is not None


def test_what_is_not_to_be_indexed_is_not_found_but_listed(store: RecollectStore):
    store.put(("a",), "hidden", {"text": "pears"}, index=False)
    store.put(("a",), "partly", {"title": "apples", "body": "a long tale of quinces"}, index=["title"])
    assert [item.key for item in store.search(("a",), query="pears")] == ["partly"]
    assert {item.key for item in store.search(("a",))} == {"hidden", "partly"}
    [found] = store.memory.episodes(source_id="partly")
    assert found.text == "apples"


def test_filters_compare(store: RecollectStore):
    for number in range(4):
        store.put(("a",), f"k{number}", {"n": number, "kind": "even" if number % 2 == 0 else "odd"})
    assert {item.key for item in store.search(("a",), filter={"kind": "odd"})} == {"k1", "k3"}
    assert {item.key for item in store.search(("a",), filter={"n": {"$gt": 1, "$lte": 3}})} == {"k2", "k3"}
    assert {item.key for item in store.search(("a",), filter={"n": {"$ne": 0}, "kind": "even"})} == {"k2"}
    assert store.search(("a",), filter={"kind": {"$gt": 3}}) == []
    with pytest.raises(InvalidInput, match="filter"):
        store.search(("a",), filter={"n": {"$gt": 1, "$near": 3}})


def test_namespaces_are_listed_as_the_reference_lists_them(store: RecollectStore):
    reference = InMemoryStore()
    for namespace in (("a", "x"), ("a", "y"), ("b", "x"), ("b", "x", "deep"), ("c",)):
        for each in (store, reference):
            each.put(namespace, "k", {"text": "something"})
    for options in (
        {},
        {"prefix": ("a",)},
        {"suffix": ("x",)},
        {"prefix": ("*", "x")},
        {"max_depth": 1},
        {"max_depth": 2, "limit": 2, "offset": 1},
    ):
        assert store.list_namespaces(**options) == sorted(reference.list_namespaces(**options))
    assert MatchCondition("prefix", ("a",))


NAMESPACES = st.sampled_from([("a",), ("a", "b"), ("c",)])
PUTS = st.builds(
    PutOp,
    NAMESPACES,
    st.sampled_from(["one", "two"]),
    st.one_of(st.none(), st.fixed_dictionaries({"n": st.integers(0, 3), "text": st.sampled_from(["tea", "rain"])})),
)
OPS = st.one_of(PUTS, st.builds(GetOp, NAMESPACES, st.sampled_from(["one", "two"])))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(OPS, max_size=4), max_size=6))
def test_any_sequence_of_batches_does_what_the_reference_does(batches: list[list[Any]]):
    reference = InMemoryStore()
    with recollect.open(embedder="hashing") as memory:
        store = RecollectStore(memory)
        for batch in batches:
            ours, theirs = store.batch(batch), reference.batch(batch)
            assert [item and (item.namespace, item.key, item.value) for item in ours] == [
                item and (item.namespace, item.key, item.value) for item in theirs
            ]
        for prefix in (("a",), ("a", "b"), ("c",), ()):
            op = SearchOp(prefix, limit=50)
            assert {(item.namespace, item.key) for item in store.batch([op])[0]} == {
                (item.namespace, item.key) for item in reference.batch([op])[0]
            }


def test_a_graph_remembers_across_threads_also_asynchronously(store: RecollectStore):
    from langgraph.graph import END, START, StateGraph
    from langgraph.store.base import BaseStore
    from typing_extensions import TypedDict

    class State(TypedDict):
        said: str
        recalled: list[str]

    async def node(state: State, *, store: BaseStore) -> dict[str, Any]:
        found = await store.asearch(("facts",), query=state["said"], limit=1)
        await store.aput(("facts",), state["said"], {"text": state["said"]})
        return {"recalled": [item.value["text"] for item in found]}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(store=store)
    asyncio.run(graph.ainvoke({"said": "The cat is called Miso", "recalled": []}))
    reply = asyncio.run(graph.ainvoke({"said": "What is the cat called?", "recalled": []}))
    assert reply["recalled"] == ["The cat is called Miso"]


def test_items_outlive_the_process_and_wrong_ones_change_nothing(store: RecollectStore, tmp_path: Path):
    store.put(("a",), "k", {"text": "kept"})
    with pytest.raises(InvalidInput, match="meta"):
        store.put(("a",), "k", {"text": {1, 2}})
    with pytest.raises(NotImplementedError):
        store.put(("a",), "k", {"text": "mortal"}, ttl=5)
    with recollect.open(tmp_path / "m.db") as again:
        item = RecollectStore(again).get(("a",), "k")
        assert item is not None
        assert item.value == {"text": "kept"}
