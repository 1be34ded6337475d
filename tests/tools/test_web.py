"""What http_fetch takes and refuses before anything is sent; what comes of it is in the kernel's tests of fetching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tools.conftest import drive
from toka_cli.tools.catalog import CATALOG
from toka_cli.tools.tool import Hands, ToolContext, ToolFailed
from toka_cli.tools.web import Fetched, HttpFetch


class Page:
    """A page that every URL leads to, and what was asked."""

    def __init__(self, **more: Any) -> None:
        fields: dict[str, Any] = {"url": "http://x", "status": 200, "content_type": "text/plain", "headers": {}, "text": "hello", "size_bytes": 5, "cut": False}
        self.fetched = Fetched(**{**fields, **more})
        self.asked: list[HttpFetch] = []

    async def fetch(self, asked: HttpFetch) -> Fetched:
        self.asked.append(asked)
        return self.fetched

    async def other(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nothing else was asked for")

    def __call__(self, limit: int = 64 * 1024, /, **arguments: Any) -> Any:
        hands = Hands("key", "agent", self.fetch, self.other, self.other, lambda *_: False)
        return drive(CATALOG["http_fetch"].call(arguments, ToolContext(Path("/"), self.other, self.other, limit, hands)))


def test_a_page_comes_back_as_data() -> None:
    page = Page()
    assert page(url="http://example.org/", headers={"Accept": "a/b"})["text"] == "hello"
    assert page.asked == [HttpFetch("http://example.org/", headers={"Accept": "a/b"})]


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "x"},
        {"url": "http://" + "x" * 5000},
        {"url": "http://example.org", "method": "DELETE"},
        {"url": "http://example.org", "body": "x"},
        {"url": "http://example.org", "method": "HEAD", "body": "x"},
        {"url": "http://example.org", "method": "POST", "body": "x" * 300_000},
        {"url": "http://example.org", "headers": {"Host": "evil.test"}},
        {"url": "http://example.org", "headers": {"content-LENGTH": "3"}},
        {"url": "http://example.org", "headers": {"Transfer-Encoding": "chunked"}},
        {"url": "http://example.org", "headers": {"Proxy-Authorization": "x"}},
        {"url": "http://example.org", "headers": {"Connection": "keep-alive"}},
        {"url": "http://example.org", "headers": {"X": "a\r\nHost: evil.test"}},
        {"url": "http://example.org", "headers": {"X\nY": "a"}},
        {"url": "http://example.org", "headers": {"": "a"}},
        {"url": "http://example.org", "headers": {"X": "ü"}},
        {"url": "http://example.org", "headers": {"X": "y" * 5000}},
        {"url": "http://example.org", "headers": {f"X{number}": "y" for number in range(21)}},
        {"url": "http://example.org", "max_bytes": 1 << 30},
        {"url": "http://example.org", "timeout_s": 1000},
        {"url": "http://example.org", "timeout_s": 0},
    ],
)
def test_what_is_not_sent(arguments: dict[str, Any]) -> None:
    page = Page()
    with pytest.raises(ToolFailed):
        page(**arguments)
    assert page.asked == []


def test_a_long_text_keeps_both_ends() -> None:
    answer = Page(text="begin" + "x" * 10_000 + "end")(1000, url="http://example.org/")
    assert answer["cut"]
    assert answer["text"].startswith("begin")
    assert answer["text"].endswith("end")
    assert len(answer["text"]) < 1100
    assert Page(text=None, note="only text is given back")(url="http://example.org/")["text"] is None


def test_a_cell_cannot_fetch(call: Any) -> None:
    with pytest.raises(ToolFailed, match="in the kernel only"):
        call("http_fetch", url="http://example.org/")
    assert CATALOG["http_fetch"].power == "network-access"
