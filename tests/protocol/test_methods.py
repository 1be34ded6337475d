"""The table of methods: complete on both sides, strict in what it takes."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import msgspec
import pytest

from toka_cli.agent import dialogue, executor, main, task, tool_runs
from toka_cli.errors import ProtocolError
from toka_cli.kernel import session
from toka_cli.orchestrator import control as control_server
from toka_cli.protocol import control, messages
from toka_cli.protocol.methods import TO_CELL, TO_KERNEL, read

ALL = {**TO_KERNEL, **TO_CELL, **control.TO_OWNER}


def texts_in(*modules):
    return {node.value for module in modules for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Constant)}


def names_in(module):
    return {node.attr for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Attribute)}


def test_the_kernel_answers_every_method_and_no_other():
    assert set(session._HANDLERS) == set(TO_KERNEL)


def test_the_cell_says_every_method():
    assert set(TO_KERNEL) <= texts_in(executor, main, task, tool_runs, dialogue)


def test_the_cell_obeys_every_order():
    assert {method.params.__name__ for method in TO_CELL.values()} <= names_in(main)


def test_the_owner_gives_every_order():
    sources = [*Path(control_server.__file__).parent.glob("*.py"), Path(session.__file__).parent / "talks.py"]
    assert set(TO_CELL) <= {
        node.value for path in sources for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
    }


def test_the_owner_serves_every_command():
    assert {method.params.__name__ for method in control.TO_OWNER.values()} <= names_in(control_server)


@pytest.mark.parametrize("name", ALL)
def test_unknown_fields_are_refused(name):
    with pytest.raises(ProtocolError, match="unknown field"):
        read(ALL[name].params, b'{"surely_unknown":1}')


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_object_is_refused(name):
    for raw in (b"[]", b"1", b'"x"', b"", b"null", b"{"):
        with pytest.raises(ProtocolError):
            read(ALL[name].params, raw)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (messages.StartAttempt, b'{"task":"a","attempt":"1"}'),
        (messages.StartAttempt, b'{"task":"a"}'),
        (messages.StartAttempt, b'{"task":"a","attempt":1.5}'),
        (messages.Note, rb'{"detail":"\ud800"}'),
        (messages.Note, b'{"detail":"\xed\xa0\x80"}'),
        (messages.Output, b'{"task":"a","stream":"stdout","data":"not base64!"}'),
        (messages.Measure, b'{"name":"a","value":NaN}'),
        (messages.Measure, b'{"name":"a","value":true}'),
        (messages.CallTool, b'{"task":"a","call_id":"c","tool":"t","args":[]}'),
    ],
)
def test_types_are_strict(kind, raw):
    with pytest.raises(ProtocolError):
        read(kind, raw)


def test_bytes_of_any_kind_pass_the_door():
    data = bytes(range(256))
    raw = msgspec.json.encode(messages.Output("t", "stdout", data))
    assert read(messages.Output, raw).data == data
