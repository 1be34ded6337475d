"""A spec that is written back loads to the same model, whatever shape it came in."""

from __future__ import annotations

from pathlib import Path

import pytest

from toka_cli.spec.load import dump_yaml, load_paths, load_text
from toka_cli.spec.write import as_document

REAL = Path(__file__).parent.parent.parent.parent / "shared" / "real-specs"

EVERYTHING = """
metadata: {name: all, version: 1.10, created: 2025-07-04, workstream: W, branch: feature/x}
spec: {name: All, domain: d, priority: HIGH, description: "say: [bold]"}
capabilities: [one, two]
objectives:
  - {description: o, deliverable: reports/**.md, validation: words}
  - {description: p, validation: {run: [true], timeout: 5m}}
tasks:
  parallel: 2
  default:
    - {id: a, description: A, run: [ls, -l], timeout: 1h30m, retries: {max: 2, delay: 250ms, backoff: 3}}
    - {description: B, run: "echo hi", depends_on: [a], allow_failure: true, requires: [git-access]}
    - {description: C, code: {python: "print(1)"}, output_schema: {type: integer}, verify: {run: "true"}}
    - {description: D, tool: read_file, args: {path: x}, on_interrupted: rerun, priority: critical, when: k}
    - think about it
  conditional: {k: [{description: E, run: [true]}]}
dependencies: {required: [{x: why}], optional: [y]}
security:
  sandbox: false
  capabilities_required: [filesystem-read, {filesystem-write: [src/**]}]
  resource_limits: {max_memory: 200MB, max_cpu: 75%, timeout: 30m, max_open_files: 64, max_output: 1MB, max_cost_usd: 2.5, task_timeout: 1500ms}
restart: {policy: never, max_attempts: 1, delay: 2s}
reporting: {frequency: daily, channels: [c], metrics: [{m: words}]}
success_criteria: {phase: [x]}
something_else: {kept: [1, 2]}
"""


def roundtrip(spec):
    loaded = load_text(dump_yaml({"agents": [as_document(spec)]}))
    assert loaded.errors == ()
    return loaded.agents[0].spec


def test_everything_comes_back():
    loaded = load_text(EVERYTHING)
    assert loaded.errors == ()
    spec = loaded.agents[0].spec
    assert roundtrip(spec) == spec


@pytest.mark.skipif(not any(REAL.glob("*.yaml")), reason="the real specs are not beside this checkout, or cannot be read")
def test_real_specs_come_back():
    for agent in load_paths([REAL]).agents:
        assert roundtrip(agent.spec) == agent.spec
