"""finish and ask: the two calls with which a model ends its work on a task. In: what it says. Out: nothing; whoever leads the conversation acts on them.

They stand in the catalog so that models get their schemas; called as a task of their own they fail, because there is no conversation to end.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed

MAX_SUMMARY: Final = 20_000
MAX_EVIDENCE: Final = 50


class Finish(Arguments, frozen=True):
    """Arguments of finish."""

    status: Annotated[
        Literal["success", "failure", "blocked"],
        msgspec.Meta(
            description="success: the task is done, and you checked it. failure: it is not, and you have tried. "
            "blocked: something that you cannot change is in the way, such as a grant that is missing."
        ),
    ]
    summary: Annotated[
        str, msgspec.Meta(description="What was done and what came of it, for people and for tasks that follow.", min_length=1, max_length=MAX_SUMMARY)
    ]
    evidence: Annotated[
        Annotated[tuple[Annotated[str, msgspec.Meta(max_length=2000)], ...], msgspec.Meta(max_length=MAX_EVIDENCE)]
        | Annotated[str, msgspec.Meta(max_length=MAX_SUMMARY)],
        msgspec.Meta(description="What shows it: files you wrote, commands you ran and what they said. One text, or a list of them."),
    ] = ()

    @property
    def proofs(self) -> list[str]:
        """The evidence as a list; models write one text as readily."""
        return [self.evidence] if isinstance(self.evidence, str) else list(self.evidence)


class Ask(Arguments, frozen=True):
    """Arguments of ask."""

    question: Annotated[str, msgspec.Meta(description="The question, with all that a person needs to decide it.", min_length=1, max_length=4000)]
    options: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=500)], ...], msgspec.Meta(description="Answers to choose from, if there are some.", max_length=10)
    ] = ()


class Ended(Answer, frozen=True):
    """Nothing: the conversation is over."""


async def run_ending(_arguments: Arguments, _context: ToolContext) -> Ended:
    """Raises ToolFailed: outside of a conversation there is nothing to end."""
    raise ToolFailed("finish and ask end a conversation with a model", hint="a task with a description alone is such a conversation")


TOOLS: Final = (
    Tool(
        name="finish",
        description="End the task and say how it went. Call it alone, and only after you have seen the results of your other calls.",
        arguments=Finish,
        result=Ended,
        power=None,
        effect="pure",
        where="cell",
        read_only=False,
        run=run_ending,
    ),
    Tool(
        name="ask",
        description="Ask a person to decide something that you may not decide. Nobody may be there to answer: then the task ends here.",
        arguments=Ask,
        result=Ended,
        power=None,
        effect="pure",
        where="cell",
        read_only=False,
        run=run_ending,
    ),
)
