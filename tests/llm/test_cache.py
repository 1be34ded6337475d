"""The cache of replies: the same request gets the same reply for nothing, anything else does not; it stays small, and a damaged file harms nobody."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from toka_cli.llm.cache import ReplyCache, key
from toka_cli.llm.provider import ModelReply, ModelRequest

REQUEST = ModelRequest("openai/gpt", ({"role": "user", "content": "hello"},), ({"type": "function", "function": {"name": "f"}},), 0.1, 100, 30.0)
REPLY = ModelReply({"role": "assistant", "content": "hi"}, "stop", 10, 5, 0.01, duration_s=2.0, model="gpt-1")


@pytest.fixture
def cache(tmp_path):
    return ReplyCache(tmp_path / "cache", scope="http://server")


def changed(**fields):
    return msgspec.structs.replace(REQUEST, **fields)


def test_a_reply_comes_back_marked_and_free(cache):
    assert cache.get(REQUEST) is None
    cache.put(REQUEST, REPLY)
    found = cache.get(REQUEST)
    assert found == msgspec.structs.replace(REPLY, from_cache=True, cost_usd=0.0, duration_s=0.0)
    assert cache.hits == 1


def test_another_run_finds_it_and_another_server_does_not(cache, tmp_path):
    cache.put(REQUEST, REPLY)
    assert ReplyCache(tmp_path / "cache", scope="http://server").get(REQUEST) is not None
    assert ReplyCache(tmp_path / "cache", scope="http://other").get(REQUEST) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "openai/gpt2"},
        {"messages": ({"role": "user", "content": "hello "},)},
        {"messages": ({"role": "system", "content": "hello"},)},
        {"tools": ()},
        {"temperature": 0.2},
        {"temperature": None},
        {"max_output_tokens": 101},
    ],
)
def test_whatever_changes_a_reply_is_another_request(cache, fields):
    cache.put(REQUEST, REPLY)
    assert cache.get(changed(**fields)) is None


def test_what_changes_no_reply_is_the_same_request(cache):
    cache.put(REQUEST, REPLY)
    assert cache.get(changed(timeout_s=1.0)) is not None
    # Fields in another order, lists instead of tuples.
    assert key(changed(messages=[{"content": "hello", "role": "user"}])) == key(REQUEST)


@pytest.mark.parametrize("reason", ["length", "content_filter", ""])
def test_replies_that_are_not_whole_are_not_kept(cache, reason):
    cache.put(REQUEST, msgspec.structs.replace(REPLY, finish_reason=reason))
    assert cache.get(REQUEST) is None


def test_a_damaged_file_is_no_reply_and_goes_away(cache, tmp_path):
    cache.put(REQUEST, REPLY)
    (path,) = (tmp_path / "cache").glob("*/*.json")
    path.write_bytes(path.read_bytes()[:20])
    assert cache.get(REQUEST) is None
    assert not path.exists()


def test_files_are_for_their_owner_only_and_hold_no_request(cache, tmp_path):
    cache.put(REQUEST, REPLY)
    (path,) = (tmp_path / "cache").glob("*/*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert b"hello" not in path.read_bytes()


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    cache = ReplyCache(tmp_path, max_files=10)
    requests = [changed(max_output_tokens=number) for number in range(1, 31)]
    for number, request in enumerate(requests):
        cache.put(request, REPLY)
        for path in tmp_path.glob(f"??/{key(request)}.json"):
            os.utime(path, (number, number))
    left = [request for request in requests if cache.get(request) is not None]
    assert 0 < len(left) <= 10
    assert left == requests[-len(left) :]


def test_their_size_is_bounded_too(tmp_path):
    cache = ReplyCache(tmp_path, max_bytes=2000)
    large = msgspec.structs.replace(REPLY, message={"role": "assistant", "content": "x" * 600})
    for number in range(1, 20):
        cache.put(changed(max_output_tokens=number), large)
    assert 0 < sum(path.stat().st_size for path in tmp_path.glob("*/*.json")) <= 2000
    huge = msgspec.structs.replace(REPLY, message={"role": "assistant", "content": "x" * 3000})
    cache.put(REQUEST, huge)
    assert cache.get(REQUEST) is None


def test_a_folder_that_cannot_be_written_is_no_cache_and_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ReplyCache(tmp_path / "file" / "cache")
    cache.put(REQUEST, REPLY)
    assert cache.get(REQUEST) is None


def test_several_at_once_never_see_half_a_reply(tmp_path):
    """Real threads, one folder: as several runs on one machine."""
    replies = [msgspec.structs.replace(REPLY, message={"role": "assistant", "content": str(number) * 20_000}) for number in range(4)]

    def write_and_read(number):
        own = ReplyCache(tmp_path, max_files=3)
        good = 0
        for turn in range(50):
            request = changed(max_output_tokens=turn % 5 + 1)
            own.put(request, replies[number])
            found = own.get(request)
            if found is not None:
                text = found.message["content"]
                assert text in {reply.message["content"] for reply in replies}
                good += 1
        return good

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(write_and_read, range(4))) > 0
    assert list(tmp_path.glob("**/*.part")) == []
