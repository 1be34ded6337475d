"""The assembler: what it makes means what was written, and what it cannot make it refuses."""

from __future__ import annotations

import struct

import pytest

from toka_cli.sandbox import bpf
from toka_cli.sandbox.bpf import ANY_BIT, EQUAL, GREATER, Program


def decode(code):
    return list(struct.iter_unpack("=HBBI", code))


def test_instructions_are_what_the_kernel_reads():
    made = Program()
    made.load(bpf.low_half(1))
    made.keep(0xF)
    made.test(EQUAL, 5, yes="end")
    made.test(GREATER, 7, no="end")
    made.test(ANY_BIT, 0x80)
    made.jump("end")
    made.refuse(13)
    made.mark("end")
    made.answer(bpf.ALLOW)
    assert len(made) == 8
    assert decode(made.assemble()) == [
        (0x20, 0, 0, 24),
        (0x54, 0, 0, 0xF),
        (0x15, 4, 0, 5),
        (0x25, 0, 3, 7),
        (0x45, 0, 0, 0x80),
        (0x05, 0, 0, 1),
        (0x06, 0, 0, 0x0005000D),
        (0x06, 0, 0, 0x7FFF0000),
    ]


def test_negative_numbers_are_compared_as_the_kernel_sees_them():
    made = Program()
    made.refuse_if(EQUAL, -1, 1)
    made.answer(bpf.ALLOW)
    assert decode(made.assemble())[0] == (0x15, 0, 1, 0xFFFFFFFF)


def build(steps):
    made = Program()
    for step in steps:
        step(made)
    return made


@pytest.mark.parametrize("between", [255, 256])
def test_a_test_reaches_255_instructions_and_never_silently_fewer(between):
    made = Program()
    made.test(EQUAL, 1, yes="end")
    for _ in range(between):
        made.load(0)
    made.mark("end")
    made.answer(bpf.ALLOW)
    if between == 255:
        assert decode(made.assemble())[0] == (0x15, 255, 0, 1)
    else:
        with pytest.raises(ValueError, match="jumps 256 instructions"):
            made.assemble()


def test_a_jump_reaches_further():
    made = Program()
    made.jump("end")
    for _ in range(3000):
        made.load(0)
    made.mark("end")
    made.answer(bpf.ALLOW)
    assert decode(made.assemble())[0] == (0x05, 0, 0, 3000)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [lambda made: made.load(0)],
        [lambda made: made.jump("nowhere"), lambda made: made.answer(0)],
        [lambda made: made.mark("back"), lambda made: made.load(0), lambda made: made.jump("back"), lambda made: made.answer(0)],
        [lambda made: made.jump("behind"), lambda made: made.answer(0), lambda made: made.mark("behind")],
        [lambda made: [made.load(0) for _ in range(4096)], lambda made: made.answer(0)],
    ],
    ids=["empty", "no end", "unknown target", "backwards", "behind the end", "too long"],
)
def test_what_the_kernel_would_refuse_or_misread_is_not_made(steps):
    with pytest.raises(ValueError):
        build(steps).assemble()


def test_a_name_marks_one_place():
    made = Program()
    made.mark("here")
    with pytest.raises(ValueError, match="twice"):
        made.mark("here")
