"""Bad input gets a clear error and changes nothing: exit 3 or 4, the place, no traceback, no state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD = "metadata: {name: NAME}\ntasks: [{id: t, description: T, run: touch ran}]\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True))


def files(**texts: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, text in texts.items():
            (folder / f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def requires(name: str, other: str) -> str:
    return GOOD.replace("NAME", name) + f"dependencies: {{required: {{{other}: why}}}}\n"


CASES: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "cycle": (files(a=requires("a", "b"), b=requires("b", "c"), c=requires("c", "a")), 3, ("a -> b -> c -> a",)),
    "self": (files(a=requires("a", "a")), 3, ("itself",)),
    "duplicate names": (files(one=GOOD, two=GOOD), 3, ("one.yaml", "two.yaml", "NAME")),
    "unknown dependency": (files(builder=GOOD.replace("NAME", "builder"), a=requires("a", "bilder")), 3, ("bilder", "builder")),
    "bad limit": (files(a=GOOD + "security: {resource_limits: {max_memory: 12 apples}}\n"), 3, ("a.yaml:3:", "max_memory", "apples")),
    "tabs": (files(a=b"metadata:\n\tname: a\n"), 3, ("a.yaml:2:1", "tab")),
    "duplicate keys": (files(a=GOOD + "metadata: {name: again}\n"), 3, ("a.yaml:3:1", "metadata")),
    "alias bomb": (files(a=BOMB + GOOD), 3, ("a.yaml", "alias")),
    "too large": (files(a=GOOD + "# " + "x" * (2 << 20)), 3, ("a.yaml", "1 MB")),
    "binary": (files(a=bytes(range(256)) * 40), 3, ("a.yaml",)),
    "utf-16": (files(a=GOOD.encode("utf-16")), 3, ("a.yaml",)),
    "no name": (files(a="tasks: [{id: t, description: T, run: 'true'}]\n"), 3, ("name",)),
    "no tasks": (files(a="metadata: {name: a}\n"), 3, ("tasks",)),
    # In a folder, YAML that is no spec is somebody else's.
    "not a map": (files(a="- 1\n- 2\n"), 4, ("no agent spec",)),
    "empty file": (files(a=""), 4, ("no agent spec",)),
    "two targets": (files(a="metadata: {name: a}\ntasks: [{id: t, run: 'true', tool: x}]\n"), 3, ("two targets",)),
    "task cycle": (files(a="metadata: {name: a}\ntasks: [{id: x, run: a, depends_on: [y]}, {id: y, run: b, depends_on: [x]}]\n"), 3, ("x -> y -> x",)),
    "python object": (files(a="metadata: {name: !!python/object/apply:os.system ['touch ran']}\n"), 3, ("a.yaml:1:",)),
    "deep": (files(a="a: " + "[" * 5000), 3, ("a.yaml",)),
    "empty directory": (files(), 4, ("no ",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_specs(toka: Any, case: str) -> None:
    write, code, words = CASES[case]
    folder = toka.root / "bad"
    folder.mkdir()
    write(folder)
    done = toka("orchestrate", folder).expect(code)
    for word in words:
        assert word in done.err, done.err
    assert done.out == ""
    assert not toka.state.exists()
    assert not (toka.work / "ran").exists()
    told = toka("orchestrate", folder, "-o", "json").expect(code)
    assert told.envelope["data"] is None
    assert told.envelope["exit_code"] == code
    assert told.envelope["errors"]
    assert all(set(error) >= {"code", "message", "hint", "where"} for error in told.envelope["errors"])


@pytest.mark.parametrize("command", [("orchestrate",), ("agent", "spawn"), ("spec", "check")])
def test_a_path_that_is_not_there(toka: Any, command: tuple[str, ...]) -> None:
    done = toka(*command, "no-such-file.yaml").expect(4)
    assert "no-such-file.yaml" in done.err
    assert not toka.state.exists()


def test_unknown_keys_warn_and_with_strict_refuse(toka: Any) -> None:
    path = toka.root / "typo.yaml"
    security = "security: {capabilities_required: [filesystem-write], resource_limits: {max_memroy: 1GB}}\n"
    path.write_text(GOOD.replace("NAME", "typo") + "objektives: []\n" + security)
    done = toka("orchestrate", path).expect(0)
    assert "max_memory" in done.err, "did you mean"
    (toka.work / "ran").unlink()
    before = sorted(toka.state.rglob("*"))
    strict = toka("orchestrate", path, "--strict").expect(3)
    assert f"{path}:3:1" in strict.err
    assert f"{path}:4:" in strict.err
    assert "objectives" in strict.err
    assert not (toka.work / "ran").exists()
    assert sorted(toka.state.rglob("*")) == before


def test_all_problems_of_all_files_at_once(toka: Any) -> None:
    folder = toka.root / "bad"
    folder.mkdir()
    files(a=GOOD + "security: {resource_limits: {max_memory: x, max_cpu: y}}\n", b="metadata: {name: b}\n")(folder)
    done = toka("orchestrate", folder, "-o", "json").expect(3)
    places = [error["where"] for error in done.envelope["errors"]]
    assert len(places) >= 3
    assert {Path(place.split(":")[0]).name for place in places} == {"a.yaml", "b.yaml"}


def test_hostile_texts_in_a_broken_spec_are_shown_not_obeyed(toka: Any) -> None:
    path = toka.root / "evil.yaml"
    path.write_text('metadata: {name: "a\\e]52;c;aGk=\\a\\e[2Jb"}\ntasks: [{id: "x\\u202ey", run: "true"}]\n"\\e[31mkey": 1\n')
    done = toka("orchestrate", path).expect(3)
    assert not any(char in done.err for char in "\x1b\x07\u202e\x9b")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("orchestrate",), 2), (("orchestrate", "x", "--max-agents", "0"), 2), (("orchestrate", "x", "--timeout", "soon"), 2),
        (("nonsense",), 2), (("agent", "stop"), 2), (("orchestrate", "x", "--require-sandbox", "castle"), 2), (("run", "prune"), 2),
        (("run", "show", "nothing"), 4), (("agent", "show", "nobody"), 4), (("agent", "logs", "nobody"), 4), (("agent", "stop", "nobody"), 4),
        (("run", "wait", "nothing"), 4), (("run", "stop", "nothing"), 4), (("audit", "verify", "nothing"), 4), (("run", "events", "nothing"), 4),
        (("runtime", "exec"), 2), (("runtime", "exec", "--python", "no-such.py"), 4), (("runtime", "exec", "--shell", "true", "--memory", "much"), 2),
        (("--config", "no-such.toml", "runtime", "config"), 4), (("orchestrate", "x", "-o", "xml"), 2), (("agent", "logs", "any", "--tail", "-1"), 2),
    ],
)  # fmt: skip
def test_bad_command_lines(toka: Any, words: tuple[str, ...], code: int) -> None:
    good = toka.spec("good", [{"id": "t", "description": "T", "run": "touch ran"}])
    done = toka(*[good if word == "x" else word for word in words]).expect(code)
    assert done.err
    assert not toka.state.exists()
    assert not (toka.work / "ran").exists()
