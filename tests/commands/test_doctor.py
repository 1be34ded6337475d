"""`toka runtime doctor` on the real machine: what it reports is what happened when it was tried, and it can fail."""

from __future__ import annotations

from typing import Any

import pytest

from toka_cli.sandbox import probe

REACHED = probe.walls().level
needs_walls = pytest.mark.skipif(REACHED == "process", reason="this kernel has neither Landlock nor a filter of system calls")


def checks(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["enforced"] for check in report["checks"]}


@pytest.mark.skipif(REACHED != "full", reason="no user namespaces on this machine")
def test_with_namespaces_everything_is_held(toka: Any) -> None:
    done = toka("runtime", "doctor", "-o", "json").expect(0)
    report = done.envelope["data"]
    assert report["level"] == "full"
    assert "none" not in checks(report).values(), report
    assert {name for name in checks(report) if name.startswith("limit.")} >= {"limit.memory", "limit.cpu", "limit.processes", "limit.timeout", "limit.orphans"}


@needs_walls
def test_without_namespaces_it_says_what_is_missing(toka: Any) -> None:
    done = toka("runtime", "doctor", "-o", "json", env={"TOKA_PROCESS_WALLS": "standard", "TOKA_PROCESS_LIMITS_BY": "polling"}).expect(5)
    report = done.envelope["data"]
    found = checks(report)
    assert report["level"] == "standard"
    assert found["files.metadata"] == "none"
    assert found["files.read"] == found["network.tcp"] == found["processes.trace"] == "kernel"
    assert found["limit.memory"] == "sampled"
    fixes = {check["name"]: check["fix"] for check in report["checks"]}
    assert fixes["limit.memory"] == fixes["limit.cpu"] == "held by polling because [process] limits_by is polling; for a cgroup: set it to auto"
    assert any("mode" in gap for gap in report["gaps"]), report["gaps"]


def test_without_any_wall_each_act_is_seen_to_happen(toka: Any) -> None:
    done = toka("runtime", "doctor", "-o", "json", env={"TOKA_PROCESS_ENABLE_ISOLATION": "false"}).expect(5)
    report = done.envelope["data"]
    found = checks(report)
    assert report["level"] == "process"
    assert found["files.read"] == found["files.write"] == found["network.tcp"] == found["system.calls"] == "none"
    assert all(check["fix"] for check in report["checks"] if check["enforced"] == "none")
    assert "secret" not in done.err


def test_it_leaves_nothing_behind(toka: Any) -> None:
    toka("runtime", "doctor")
    assert toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"] == []
