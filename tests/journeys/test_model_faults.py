"""What a provider can do wrong, through the whole of toka: once and then well the run succeeds; for ever it fails with the right reason, in time, with no
more requests than documented. Each agent of a run meets a fault of its own."""

from __future__ import annotations

from typing import Any

from tests.conftest import Toka
from tests.journeys.asking import by_name, connect, events, finish, lanes, of_lane, orchestrate, prompt
from tests.llm.server import ModelServer, Reply, error, overloaded, rate_limited, too_long

TIMEOUT_S = 3.0
FAILURES = 3
REQUESTS = 6
"""Those of one call, as the gateway documents them: failures of any kind, and all together where the others were answered with "not now"."""
BACKOFF_S = 1.0
SPREAD = 0.2

BROKEN = {"truncated", "bad_reply"}
"""The same answer is one or the other: some come in pieces, and there an end that is missing is all that can be known."""
FAULTS: dict[str, tuple[Reply, set[str]]] = {
    "reset": (Reply(fault="reset"), {"reset"}),
    "closed": (Reply(fault="close"), {"reset"}),
    "truncated": (Reply(text="half", fault="truncate"), {"truncated"}),
    "dripping": (Reply(text="slow", fault="drip", between_s=0.2), {"timeout"}),
    "silent": (Reply(fault="hang"), {"timeout"}),
    "broken json": (Reply(fault="bad_json"), BROKEN),
    "no choices": (Reply(fault="empty_choices"), BROKEN),
    "nothing said": (Reply(text=""), {"bad_reply"}),
    "server error": (error(500), {"overloaded"}),
    "overloaded": (overloaded(), {"overloaded"}),
}
"""What the server does, and the causes that toka may find."""
NOT_NOW = {"overloaded"}


def asking(toka: Toka, names: Any) -> None:
    for name in names:
        prompt(toka, name.replace(" ", "-"), f"You meet: {name}.")


def test_every_fault_once_and_then_well(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server, LLM_TIMEOUT=f"{TIMEOUT_S:g}s", LLM_RATE_LIMIT="1000")
    asking(toka, FAULTS)
    model_server.play(lanes({f"You meet: {name}.": [fault, finish(f"after {name}")] for name, (fault, _) in FAULTS.items()}))
    view = orchestrate(toka)
    for name, agent in zip(FAULTS, (by_name(view)[name.replace(" ", "-")] for name in FAULTS), strict=True):
        assert (agent["state"], agent["tasks"][0]["output"], agent["tasks"][0]["attempts"]) == ("succeeded", f"after {name}", 1), name
        assert len(of_lane(model_server, f"You meet: {name}.")) == 2, name
    came_to_nothing = {event["agent"]: event for event in events(toka, view["id"], "llm.unanswered")}
    ids = {agent["name"]: agent["id"] for agent in view["agents"]}
    for name, (_, causes) in FAULTS.items():
        assert came_to_nothing[ids[name.replace(" ", "-")]]["cause"] in causes, name
        # Nobody knows what a request used that broke off: the most is on the books. One that was turned away was free.
        assert bool(by_name(view)[name.replace(" ", "-")]["usage"]["unsettled_tokens"]) == (causes != NOT_NOW), name


def test_every_fault_for_ever(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server, LLM_TIMEOUT=f"{TIMEOUT_S:g}s", LLM_RATE_LIMIT="1000")
    faults = {name: FAULTS[name] for name in ("reset", "truncated", "dripping", "silent", "broken json", "nothing said")}
    faults |= {"too long": (too_long(), {"context"}), "filtered": (Reply(text="", finish="content_filter"), {"content_filter"})}
    faults["busy"] = rate_limited(retry_after=1), {"rate_limit"}
    asking(toka, faults)
    model_server.play(lanes({f"You meet: {name}.": [fault] * 50 for name, (fault, _) in faults.items()}))
    view = orchestrate(toka, code=1)
    for name, (_, causes) in faults.items():
        agent = by_name(view)[name.replace(" ", "-")]
        seen = of_lane(model_server, f"You meet: {name}.")
        assert agent["reason"].startswith(tuple(f"task_failed: t: provider_{cause}: " for cause in causes)), (name, agent["reason"])
        terminal = causes & {"context", "content_filter"}
        assert len(seen) == (1 if terminal else REQUESTS if causes == {"rate_limit"} else FAILURES), name
        asked = [event["at"] for event in events(toka, view["id"], "llm.asked") if event["agent"] == agent["id"]]
        failed = [event["at"] for event in events(toka, view["id"], "llm.unanswered") if event["agent"] == agent["id"]]
        assert len(asked) == len(failed) == len(seen)
        if causes == {"timeout"}:
            # Not before its deadline, and not sooner again than documented: what a busy machine adds on top says nothing.
            assert all(ended - began >= TIMEOUT_S for began, ended in zip(asked, failed, strict=True)), name
            assert all(request.abandoned for request in seen)
        if causes != {"rate_limit"}:
            pauses = [later - earlier for earlier, later in zip(failed, asked[1:], strict=False)]
            assert all(pause >= BACKOFF_S * 2**number * (1 - SPREAD) for number, pause in enumerate(pauses)), (name, pauses)
