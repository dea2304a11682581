"""A memory as a LangChain retriever: `RecollectRetriever(memory=recollect.open("memory.db"))`."""

from __future__ import annotations

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from recollect.store.memory import Memory
from recollect.store.records import to_json


class RecollectRetriever(BaseRetriever):
    """Finds what a memory holds on a query. Raises what `Memory.recall` raises.

    A document's content is the text of a hit; its metadata tells `at`, `speaker`, `session`, `score`, `sources` and `why`,
    as `Hit.to_json` does, and the `meta` that was stored with it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: Memory
    k: int = Field(default=5, ge=1)
    session: str | None = None  # only this conversation
    speaker: str | None = None  # only what this one said

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        hits = self.memory.recall(query, self.k, session=self.session, speaker=self.speaker)
        found = []
        for hit in hits:
            metadata = to_json(hit)
            found.append(Document(id=metadata.pop("id"), page_content=metadata.pop("text"), metadata=metadata))
        return found
