"""An assembler for the filters of seccomp(2): instructions with named targets in, the bytes that the kernel takes out. It knows no system call."""

from __future__ import annotations

import struct
from typing import Final

# include/uapi/linux/bpf_common.h, seccomp.h: class | size or operation | source.
LOAD: Final = 0x20
AND: Final = 0x54
JUMP: Final = 0x05
EQUAL: Final = 0x15
GREATER: Final = 0x25
ANY_BIT: Final = 0x45
RETURN: Final = 0x06

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000

# struct seccomp_data: number, machine, address of the instruction, six arguments of 64 bits, the low half first on the machines we know.
NUMBER: Final = 0
MACHINE: Final = 4
_ARGUMENTS: Final = 16

MAX_INSTRUCTIONS: Final = 4096
_MAX_JUMP: Final = 255


def low_half(argument: int) -> int:
    """Where the low 32 bits of an argument are. An int of the kernel is these and nothing else, whatever stands above them."""
    return _ARGUMENTS + 8 * argument


class Program:
    """Instructions in order. A target is a name given later by `mark`; None is the next instruction."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None, str | None]] = []
        self._marks: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._code)

    def load(self, offset: int) -> None:
        """Take 32 bits of the call into the accumulator."""
        self._code.append((LOAD, offset, None, None))

    def keep(self, mask: int) -> None:
        """Keep only these bits of the accumulator."""
        self._code.append((AND, mask, None, None))

    def test(self, kind: int, value: int, *, yes: str | None = None, no: str | None = None) -> None:
        """Compare the accumulator (EQUAL, GREATER, ANY_BIT) and go on at one target or the other."""
        self._code.append((kind, value & 0xFFFFFFFF, yes, no))

    def jump(self, target: str) -> None:
        """Go on there, however far it is."""
        self._code.append((JUMP, 0, target, None))

    def answer(self, action: int) -> None:
        """Return an action: ALLOW or KILL_PROCESS."""
        self._code.append((RETURN, action, None, None))

    def refuse(self, code: int) -> None:
        """Return: the call fails with this errno and is not made."""
        self.answer(_ERRNO | code)

    def refuse_if(self, kind: int, value: int, code: int) -> None:
        """Fail with this errno if the comparison holds; else go on with the next instruction."""
        after = f"{len(self._code)} after"
        self.test(kind, value, no=after)
        self.refuse(code)
        self.mark(after)

    def mark(self, target: str) -> None:
        """The next instruction is this target. Raises ValueError when the name is taken."""
        if target in self._marks:
            raise ValueError(f"{target}: marked twice")
        self._marks[target] = len(self._code)

    def assemble(self) -> bytes:
        """The bytes of the program. Raises ValueError for jumps backwards or too far, unknown targets, or a program too long or without an end."""
        if not self._code or self._code[-1][0] != RETURN or len(self._code) > MAX_INSTRUCTIONS:
            raise ValueError(f"a program of {len(self._code)} instructions that does not end with an answer, or is too long")
        return b"".join(self._bytes(at, *instruction) for at, instruction in enumerate(self._code))

    def _bytes(self, at: int, code: int, value: int, yes: str | None, no: str | None) -> bytes:
        if code == JUMP:
            return struct.pack("=HBBI", code, 0, 0, self._distance(at, yes))
        if code in {EQUAL, GREATER, ANY_BIT}:
            near = self._distance(at, yes), self._distance(at, no)
            if max(near) > _MAX_JUMP:
                raise ValueError(f"instruction {at} jumps {max(near)} instructions, more than {_MAX_JUMP}")
            return struct.pack("=HBBI", code, *near, value)
        return struct.pack("=HBBI", code, 0, 0, value)

    def _distance(self, at: int, target: str | None) -> int:
        if target is None:
            return 0
        if target not in self._marks or not at < self._marks[target] < len(self._code):
            raise ValueError(f"instruction {at} jumps to {target}, which is not an instruction after it")
        return self._marks[target] - at - 1
