"""What the kernel and a provider process say to each other: a 4-byte length, then one MessagePack message. In: bytes as they arrive. Out: checked messages.

Not the frames of the cells: a conversation with a model may be larger than anything a cell may send, and both ends of this socket are ours.
Never reads or writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from toka_cli.errors import ProtocolError
from toka_cli.llm.provider import ModelInfo, ModelReply, ModelRequest

# Four million tokens of text: more than the window of any model.
MAX_MESSAGE_BYTES: Final = 64 << 20
HEADER: Final = struct.Struct("!I")


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """USD per token."""

    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None


class Begin(msgspec.Struct, frozen=True, omit_defaults=True, tag="begin"):
    """The first message: keys and settings. `environment` is what litellm may see of the caller's; `prices` are by the model's name as it is asked for."""

    environment: dict[str, str]
    secrets: tuple[str, ...] = ()
    base_url: str | None = None
    provider: str | None = None
    prices: dict[str, Price] = {}
    debug_log: str | None = None

    def __repr__(self) -> str:
        return f"Begin(environment=<{len(self.environment)} variables>, base_url={self.base_url!r}, provider={self.provider!r})"


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, tag="ask"):
    """Make an exchange. With `deltas` the provider is asked to stream, and Delta says how it grows."""

    id: int
    request: ModelRequest
    deltas: bool = False


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Say what is known of a model."""

    id: int
    model: str


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Give an exchange up; no answer is wanted any more."""

    id: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """litellm is loaded. Seconds of it, and the memory that the process has now."""

    version: str
    import_s: float
    rss_bytes: int


class Unable(msgspec.Struct, frozen=True, tag="unable"):
    """litellm could not be loaded, and never will be in this installation."""

    message: str
    hint: str


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """So many characters more came in."""

    id: int
    characters: int


class Replied(msgspec.Struct, frozen=True, tag="replied"):
    """The exchange is done."""

    id: int
    reply: ModelReply
    rss_bytes: int


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, tag="failed"):
    """The exchange failed; see ProviderError."""

    id: int
    cause: str
    message: str
    hint: str | None = None
    retry_after_s: float | None = None
    rss_bytes: int = 0


class Described(msgspec.Struct, frozen=True, tag="described"):
    """What is known of a model."""

    id: int
    info: ModelInfo


ToProvider = Begin | Ask | Describe | Cancel
FromProvider = Ready | Unable | Delta | Replied | Failed | Described

_ENCODER: Final = msgspec.msgpack.Encoder()
TO_PROVIDER: Final = msgspec.msgpack.Decoder(ToProvider)
FROM_PROVIDER: Final = msgspec.msgpack.Decoder(FromProvider)


def pack(message: ToProvider | FromProvider) -> bytes:
    """A message with its length in front. Raises ProtocolError if it is larger than MAX_MESSAGE_BYTES."""
    try:
        body = _ENCODER.encode(message)
    except (TypeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"a message that cannot be sent: {error}") from None
    if len(body) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is larger than {MAX_MESSAGE_BYTES}")
    return HEADER.pack(len(body)) + body


class Cutter:
    """Cuts a stream of bytes into bodies; holds at most one that is not complete yet. Large ones are put together without copying the rest each time."""

    __slots__ = ("_buffer", "_wanted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = HEADER.size

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes, give the bodies that are complete. Raises ProtocolError for one that is too large."""
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            (size,) = HEADER.unpack_from(self._buffer)
            if size > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of {size} bytes was announced; the limit is {MAX_MESSAGE_BYTES}")
            self._wanted = HEADER.size + size
            if len(self._buffer) < self._wanted:
                return
            body = bytes(self._buffer[HEADER.size : self._wanted])
            del self._buffer[: self._wanted]
            self._wanted = HEADER.size
            yield body
