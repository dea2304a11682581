"""`recollect mcp`: the memory as tools for an agent, over standard input and output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recollect.cli.common import Agent, Db, EmbedderName, MethodName, User, opened
from recollect.errors import Unavailable

if TYPE_CHECKING:
    from recollect.store.memory import Memory

EXAMPLES = "Examples:  recollect mcp   |   recollect mcp --user ana --agent coder --db memory.db"


def run(
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    embedder: EmbedderName = None,
    method: MethodName = None,
) -> None:
    """Serve the memory over MCP to the agent that started this: remember, recall, answer, history, forget, status."""
    try:
        import anyio

        from recollect.server.tools import make_tools
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed; `pip install 'recollect[server]'` brings it.") from None

    with opened(db, user, agent, embedder, method=method, create=True, with_lm=True) as memory:

        async def do(_: Any, scope: str, work: Callable[[Memory], Any]) -> Any:
            return await anyio.to_thread.run_sync(work, memory)

        make_tools(do).run("stdio")
