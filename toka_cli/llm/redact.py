"""Masks known secrets by their value, in whatever goes to a model, comes back from one, or is written down.

In: the secrets, then any text, JSON data or bytes. Out: the same with `[redacted]` where a secret stood, plain or in a usual encoding (JSON, URL, base64,
hexadecimal, HTML). It masks values that it was told and nothing else: no patterns, no lists of suspicious words. What is compressed, encrypted, taken
apart, or encoded with line ends within is not seen.
"""

from __future__ import annotations

import base64
import bisect
import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

from toka_cli.llm.untrusted import strip_controls

MARK: Final = "[redacted]"
SHORTEST: Final = 6
"""A secret with fewer characters is not masked: `test` would vanish from every text. How many there were is in `too_short`."""
_SHORTEST_LINE: Final = 16
"""Lines of a secret of many lines (a private key) are masked one by one too, from this length on."""
_FEW: Final = 400
"""Up to so many forms, searching for each is faster than one expression for all of them (measured: 0.03 ms per form and 200 kB)."""
_CUT: Final = re.compile(r"\n\[\.\.\. \d+ (?:bytes|characters) left out \.\.\.\]\n")
"""Where toka left out the middle of a text, it may have cut a secret in two."""
_MEMO_CHARS: Final = 4 * 1024 * 1024
_MEMO_ENTRY: Final = 200
"""What a text in the memo takes beside its characters: there are many short ones, and each request repeats all of those before it."""


class Redactor:
    """Knows secrets by value; `version` changes with what it knows. Making it costs about 0.1 ms per secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self._heads: set[str] = set()
        self._longest = 0
        self._all: re.Pattern[str] | None = None
        self._memo: dict[str, str] = {}
        self._memo_chars = 0
        self.version = 0
        self.count = 0
        self.too_short = 0
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too, from now on."""
        forms = set(self._forms)
        for secret in {one for whole in secrets for one in (whole, whole.strip())}:
            if len(secret) < SHORTEST:
                self.too_short += bool(secret)
                continue
            self.count += 1
            forms.update(form for form in _forms(secret) if len(form) >= SHORTEST)
        self._forms = sorted(forms)
        self._heads = {form[:SHORTEST] for form in self._forms}
        self._longest = max(map(len, self._forms), default=0)
        self._all = re.compile(f"(?=({_expression(self._forms)}))") if len(self._forms) > _FEW else None
        self.version += 1
        self._memo.clear()
        self._memo_chars = 0

    def text(self, text: str) -> str:
        """Return text without secrets."""
        if not self._forms or len(text) < SHORTEST:
            return text
        spans = self._spans(text)
        if " left out ...]" in text:
            spans = _joined([*spans, *self._cut_in_two(text)])
        return _mask(text, spans)

    def clean(self, text: str) -> str:
        """Return text without control characters and secrets, in this order: they may be used to split one. Texts seen before cost next to nothing."""
        known = self._memo.get(text)
        if known is None:
            known = self.text(strip_controls(text))
            self._remember(text, known)
        return known

    def value(self, value: Any) -> Any:
        """Return JSON data without secrets; names of fields are looked at too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name) if isinstance(name, str) else name: self.value(part) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(part) for part in value]
        return value

    def data(self, data: bytes) -> bytes:
        """Return bytes without secrets, whatever else they hold."""
        # Every byte is a character here; forms with other than ASCII characters are known in UTF-8 as well.
        return self.text(data.decode("latin-1")).encode("latin-1") if self._forms else data

    def stream(self) -> RedactedStream:
        """A reader of text that comes in pieces."""
        return RedactedStream(self)

    def _remember(self, text: str, masked: str) -> None:
        self._memo[text] = masked
        self._memo_chars += len(text) + _MEMO_ENTRY
        while self._memo_chars > _MEMO_CHARS:
            oldest = next(iter(self._memo))
            del self._memo[oldest]
            self._memo_chars -= len(oldest) + _MEMO_ENTRY

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where secrets stand, in order; places that overlap are one."""
        if self._all is not None:
            found = [match.span(1) for match in self._all.finditer(text)]
        else:
            found = sorted(span for form in self._forms if form in text for span in _places(form, text))
        return _joined(found)

    def _cut_in_two(self, text: str) -> Iterator[tuple[int, int]]:
        """Where halves of secrets stand beside a place at which the middle of a text was left out."""
        for cut in _CUT.finditer(text):
            before = text[max(0, cut.start() - self._longest) : cut.start()]
            half = len(before) - self._pending(before)
            if half >= SHORTEST:
                yield cut.start() - half, cut.start()
            after = text[cut.end() : cut.end() + self._longest]
            found = (size for form in self._forms for size in range(len(form) - 1, SHORTEST - 1, -1) if after.startswith(form[-size:]))
            if size := max(found, default=0):
                yield cut.end(), cut.end() + size

    def _pending(self, text: str) -> int:
        """Where the end of `text` may be the beginning of a secret; its length where it cannot."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            # No form is shorter than its head: this spares nearly all of the slices.
            if start + SHORTEST <= len(text) and text[start : start + SHORTEST] not in self._heads:
                continue
            tail = text[start:]
            place = bisect.bisect_right(self._forms, tail)
            if place < len(self._forms) and self._forms[place].startswith(tail):
                return start
        return len(text)


class RedactedStream:
    """Text in pieces, without secrets that lie across their borders. Keeps back only what may be the beginning of one."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._kept = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown by now."""
        text = self._kept + piece
        cut = self._redactor._pending(text)
        spans = self._redactor._spans(text)
        for start, end in reversed(spans):
            if start < cut < end:
                cut = start
        self._kept = text[cut:]
        return _mask(text[:cut], [span for span in spans if span[1] <= cut])

    def feed_data(self, piece: bytes) -> bytes:
        """The same for bytes, whatever else they hold. A stream takes either texts or bytes."""
        return self.feed(piece.decode("latin-1")).encode("latin-1")

    def flush_data(self) -> bytes:
        """The rest of the bytes."""
        return self.flush().encode("latin-1")

    def flush(self) -> str:
        """Return the rest; nothing comes after it."""
        text, self._kept = self._kept, ""
        return _mask(text, self._redactor._spans(text))


def _mask(text: str, spans: list[tuple[int, int]]) -> str:
    if not spans:
        return text
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], MARK]
        at = end
    return "".join([*parts, text[at:]])


def _joined(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order; those that overlap are one."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _places(form: str, text: str) -> Iterator[tuple[int, int]]:
    start = text.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = text.find(form, start + 1)


def _forms(secret: str) -> Iterator[str]:
    """The secret as it may stand in a text."""
    lines = [line.strip() for line in secret.splitlines()] if "\n" in secret or "\r" in secret else []
    for plain in {secret, strip_controls(secret), *(line for line in lines if len(line) >= _SHORTEST_LINE and not line.startswith("-----"))}:
        yield plain
        for ascii_only in (True, False):
            once = json.dumps(plain, ensure_ascii=ascii_only)[1:-1]
            yield from (once, once.replace("/", "\\/"), json.dumps(once, ensure_ascii=ascii_only)[1:-1])
        yield repr(plain)[1:-1]
        yield from (html.escape(plain), html.escape(plain, quote=False))
        for quoted in (quote(plain, safe="", errors="replace"), quote(plain, errors="replace"), quote_plus(plain, errors="replace")):
            yield from (quoted, re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), quoted))
        data = plain.encode("utf-8", "replace")
        yield data.decode("latin-1")
        yield from (data.hex(), data.hex().upper())
        for shift in range(3):
            yield from (_inside_base64(data, shift, b"+/"), _inside_base64(data, shift, b"-_"))


def _inside_base64(data: bytes, shift: int, alphabet: bytes) -> str:
    """The characters that these bytes, and no others, decide where they stand `shift` bytes behind a multiple of three."""
    encoded = base64.b64encode(b"\0" * shift + data, alphabet).decode("ascii")
    return encoded[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]


def _expression(forms: list[str], depth: int = 3) -> str:
    """One expression for all forms that prefers the longest, branching by first characters so that most places are passed over quickly."""
    if depth == 0 or len(forms) == 1:
        return "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    groups: dict[str, list[str]] = {}
    for form in forms:
        groups.setdefault(form[:1], []).append(form[1:])
    branches = []
    for first, rest in groups.items():
        longer = [form for form in rest if form]
        branches.append(re.escape(first) + (f"(?:{_expression(longer, depth - 1)})" if longer else "") + ("?" if longer and "" in rest else ""))
    return "|".join(branches)
