"""The vocabulary of grants."""

from __future__ import annotations

import pytest

from toka_cli.policy.capability import DECLARED, POWERS, check_grants, classify, hints
from toka_cli.spec.load import load_text


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("filesystem-write", "filesystem-write"),
        ("file-system-write", "filesystem-write"),
        ("File_System Write", "filesystem-write"),
        ("storage-modification", "filesystem-write"),
        ("cargo-test-execution", "cargo-execution"),
        ("test-execution", "script-execution"),
        ("network-access-limited", "network-access"),
        ("github-api-access", "network-access"),
        ("mcp:Cortex", "mcp:Cortex"),
        ("mcp:cortex.read_*", "mcp:cortex.read_*"),
    ],
)
def test_powers_and_their_aliases(name: str, power: str) -> None:
    found = classify(name)
    assert (found.kind, found.name) == ("power", power)
    assert found.power is not None
    assert found.power.summary


@pytest.mark.parametrize(
    "name", ["document-analysis", "link-validation", "network-access-llm-providers", "api-key-storage", "Crypto_Operations"]
)
def test_declared_names_grant_nothing(name: str) -> None:
    found = classify(name)
    assert (found.kind, found.power) == ("declared", None)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("filesystem-wirte", "filesystem-write"),
        ("network-acces", "network-access"),
        ("filesystem-write-all", "filesystem-write"),
        ("root", None),
        ("mcp:", None),
        ("", None),
        ("mcp:a b", None),
        ("filesystem-write\n", None),
        ("fílesystem-write", None),
        ("x" * 5000, None),
    ],
)
def test_nothing_is_granted_by_resemblance(name: str, near: str | None) -> None:
    found = classify(name)
    if name.strip() == "filesystem-write":
        assert found.kind == "power"
        return
    assert (found.kind, found.power) == ("unknown", None)
    if near is not None:
        assert found.nearest == near


def test_no_name_means_two_things() -> None:
    names = [name for power in POWERS for name in (power.name, *power.aliases)]
    assert len(names) == len(set(names))
    assert not DECLARED & set(names)
    assert all(classify(name).name == name for name in DECLARED)


def test_unknown_grants_are_warned_about_at_their_places() -> None:
    text = (
        "metadata: {name: a}\n"
        "tasks:\n  default:\n    - {description: x, requires: [git-acess]}\n"
        "security:\n  capabilities_required:\n    - filesystem-read\n    - filesystem-read\n    - filesystem-wirte\n    - {teleport: [mars]}\n"
    )
    (agent,) = load_text(text, path="a.yaml").checked().agents
    found = check_grants(agent)
    assert [(problem.line, problem.column, problem.severity) for problem in found] == [
        (9, 7, "warning"),
        (10, 8, "warning"),
        (4, 35, "warning"),
    ]
    assert "did you mean 'filesystem-write'?" in (found[0].hint or "")
    assert {problem.severity for problem in check_grants(agent, strict=True)} == {"error"}


def test_hints_are_whole_words_and_only_hints() -> None:
    assert hints("Commit with Git") == ["mentions commit, but git-access is not granted"]
    assert hints("use git", ["git_access"]) == []
    assert hints("legitimate digital gitter") == []
