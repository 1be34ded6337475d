"""The tools of the memory as an agent calls them, under both of their names, through the kernel's own hands."""

from __future__ import annotations

import pytest

from tests.tools.kernel_side import SECRET, Desk, Failed
from toka_cli.tools.catalog import CATALOG


@pytest.fixture
def desks(tmp_path):
    made = []

    def make(**more):
        made.append(Desk(tmp_path / "state", tmp_path, **more))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


def test_notes_outlive_a_run_and_are_an_agents_own(desks):
    assert desks()("memory_store", text="The port is 8080.", key="port", tags=["setup"]) == {"key": "port", "replaced": False, "notes": 1}
    later = desks()
    assert [hit["key"] for hit in later("memory_search", query="which port?")["hits"]] == ["port"]
    assert later("memory_retrieve", keys=["port"])["notes"][0]["text"] == "The port is 8080."
    assert desks(name="somebody else")("memory_search", query="port") == {"hits": [], "notes": 0, "partly": False}


def test_the_other_names_are_the_same_tools(desks):
    desk = desks()
    desk("cortex_store", text="auth lives in auth.py", key="auth")
    assert desk("memory_search", query="auth")["hits"] == desk("cortex_search", query="auth")["hits"]
    assert desk("cortex_retrieve")["notes"][0]["key"] == "auth"
    assert desk("cortex_consolidate") == {"removed": 0, "key": None, "notes": 1}
    for name in ("store", "search", "retrieve", "consolidate"):
        one, other = CATALOG[f"memory_{name}"], CATALOG[f"cortex_{name}"]
        assert other.alias_of == one.name
        assert (one.arguments, one.effect, one.power, one.where) == (other.arguments, other.effect, None, "kernel")


def test_a_call_made_again_is_one_call(desks):
    first = desks()("memory_store", call_id="t.1", text="once")
    assert desks()("memory_store", call_id="t.1", text="once") == first
    assert desks()("memory_retrieve")["notes"][0]["key"] == first["key"]
    assert len(desks()("memory_retrieve")["notes"]) == 1


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("memory_store", {"text": ""}),
        ("memory_store", {"text": "x" * 20_000}),
        ("memory_store", {"text": "x", "key": ""}),
        ("memory_store", {"text": "x", "tags": ["t"] * 11}),
        ("memory_search", {"query": ""}),
        ("memory_search", {"query": "x", "limit": 0}),
        ("memory_retrieve", {"keys": ["x"] * 101}),
        ("memory_consolidate", {"keys": ["a"]}),
        ("memory_consolidate", {"text": "a"}),
        ("memory_store", {"text": "x", "place": "/elsewhere"}),
    ],
)
def test_what_cannot_be_asked(desks, tool, arguments):
    with pytest.raises(Failed):
        desks()(tool, **arguments)


def test_a_known_secret_is_not_kept(desks):
    desk = desks()
    for arguments in ({"text": f"the key is {SECRET}"}, {"text": "x", "key": SECRET}, {"text": "x", "tags": [SECRET]}):
        with pytest.raises(Failed, match="a secret of toka's own"):
            desk("memory_store", **arguments)
    assert desk("memory_retrieve")["notes"] == []
    assert [kind for kind, _ in desk.threats] == ["secret"]


def test_a_long_answer_is_cut(desks):
    desk = desks()
    for number in range(10):
        desk("memory_store", text="x" * 16_000, key=f"k{number}")
    answer = desk("memory_retrieve", limit=10)
    assert answer["cut"]
    assert 1 <= len(answer["notes"]) < 6


def test_without_the_kernel_there_are_none(call):
    with pytest.raises(Exception, match="kept by the kernel only"):
        call("memory_store", text="x")
