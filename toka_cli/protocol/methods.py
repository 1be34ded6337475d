"""The table of contents of the door: every method, what it takes and what it answers (None: a notification, no answer)."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from toka_cli.errors import ProtocolError
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t


class Method(NamedTuple):
    """The types of one method."""

    params: type[m.Message]
    result: type[m.Message] | None


TO_KERNEL: Final[dict[str, Method]] = {
    "agent.hello": Method(m.Hello, m.AgentBrief),
    "agent.note": Method(m.Note, None),
    "agent.beat": Method(m.Beat, None),
    "agent.measure": Method(m.Measure, None),
    "agent.finish": Method(m.FinishAgent, m.Ack),
    "attempt.start": Method(m.StartAttempt, m.Go),
    "attempt.finish": Method(m.FinishAttempt, m.Verdict),
    "task.skip": Method(m.SkipTask, m.Ack),
    "task.output": Method(m.Output, None),
    "tool.call": Method(m.CallTool, m.ToolReply),
    "tool.done": Method(m.FinishTool, m.Ack),
    "talk.open": Method(t.OpenTalk, t.Talk),
    "talk.turn": Method(t.TakeTurn, t.Turn),
}

TO_CELL: Final[dict[str, Method]] = {
    "agent.stop": Method(m.StopAgent, None),
    "agent.pause": Method(m.PauseAgent, None),
    "agent.resume": Method(m.ResumeAgent, None),
    "talk.wait": Method(t.TalkWait, None),
}

_DECODERS: Final[dict[type[m.Message], msgspec.json.Decoder[m.Message]]] = {}


def read(kind: type[m.Message], raw: msgspec.Raw | bytes) -> m.Message:
    """Decode and validate parameters or a result. Raises ProtocolError."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from None
