"""`recollect answer`: an answer from what is remembered, with citations."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import (
    NOTHING_FOUND,
    Agent,
    AsOf,
    Db,
    Json,
    MethodName,
    User,
    escape,
    opened,
    out,
    print_json,
    when,
)

EXAMPLES = 'Examples:  recollect answer "When did Ana move?"   |   recollect answer "Where does Ana live?" --at 2024-06-01 --json'


def run(
    question: Annotated[str, typer.Argument(help="The question.")],
    k: Annotated[int, typer.Option("-k", help="How many memories to read.")] = 10,
    at: AsOf = None,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    method: MethodName = None,
    json: Json = False,
) -> None:
    """Answer a question from what is remembered, quoting its evidence; says so when there is none.

    Uses the language model that is configured (see recollect doctor), else the built-in reader.
    """
    with opened(db, user, agent, method=method, with_lm=True, derive=True, quiet=json) as memory:
        answer = memory.answer(question, k, at=at)
    if json:
        print_json(answer.to_json())
    else:
        out.print(f"[bold]{escape(answer.text)}[/]")
        for quote in answer.quotes:
            head = ", ".join(part for part in (quote.speaker, when(quote.at)) if part)
            out.print(f'   [dim]"{escape(quote.text)}" ({escape(head)}, {quote.episode_id})[/]')
        cost = f", {answer.input_tokens} + {answer.output_tokens} tokens" if answer.input_tokens else ""
        out.print(
            f"   [dim]read by {escape(answer.reader)}, confidence {answer.confidence:.0%}, {answer.seconds:.2f} s{cost}[/]"
        )
    if answer.abstained:
        raise SystemExit(NOTHING_FOUND)
