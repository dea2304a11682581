"""RecollectRetriever in a chain of the real LangChain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import recollect

pytest.importorskip("langchain_core", reason="langchain-core is not installed")
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from recollect.integrations.langchain import RecollectRetriever


def test_documents_carry_text_and_reasons(tmp_path: Path):
    with recollect.open(tmp_path / "m.db", embedder="hashing") as memory:
        memory.add("Ana moved to Lisbon.", speaker="Ana", session="s1", at="2024-05-12", meta={"page": 3})
        memory.add("The bread was stale.", speaker="Ben", session="s2")
        found = RecollectRetriever(memory=memory, k=1).invoke("Where did Ana move?")
        [document] = found
        assert document.page_content == "Ana moved to Lisbon."
        assert document.metadata["speaker"] == "Ana"
        assert document.metadata["meta"] == {"page": 3}
        assert document.metadata["at"].startswith("2024-05-12")
        assert sum(signal["share"] for signal in document.metadata["why"]) == pytest.approx(1)
        assert [d.page_content for d in RecollectRetriever(memory=memory, session="s2").invoke("Lisbon")] == [
            "The bread was stale."
        ]
        chain = RecollectRetriever(memory=memory, k=1) | RunnableLambda(lambda documents: documents[0].page_content)
        assert asyncio.run(chain.ainvoke("stale bread")) == "The bread was stale."


def test_settings_are_checked():
    with recollect.open(embedder="hashing") as memory, pytest.raises(ValidationError, match="k"):
        RecollectRetriever(memory=memory, k=0)
