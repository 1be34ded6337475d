"""The Prometheus text, read back by a parser of its own: every line is of the format, and says what `-o json` says."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from toka_cli.state.metrics import Stats
from toka_cli.view.prometheus import COUNTERS, NAMES, prometheus_text

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\\n]*)"\})? (\S+)')


def parse(text):
    """{name: (type, value or {label value: value})}; fails on anything that the format does not know."""
    assert text.endswith("\n")
    kinds, found = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            _, word, name, kind = line.split(" ")
            assert (word, kind in {"counter", "gauge"}, name not in kinds) == ("TYPE", True, True)
            kinds[name] = kind
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, label, of, value = match.groups()
        assert name in kinds, "its type comes first"
        if label:
            assert label == "state"
            values = found.setdefault(name, (kinds[name], {}))[1]
            assert of not in values
            values[of] = float(value)
        else:
            assert name not in found
            found[name] = (kinds[name], float(value))
    return found


def make(**more):
    fields = dict.fromkeys(Stats.__struct_fields__, 0) | {"runs": {}}
    return Stats(**{**fields, **more})


def agree(document, text):
    found = parse(text)
    for field, value in document.items():
        name = f"toka_{NAMES.get(field, field)}"
        if value is None or value == {}:
            assert name not in found
        else:
            kind, read = found[name]
            assert kind == ("counter" if field in COUNTERS else "gauge")
            assert kind == "gauge" or name.endswith("_total")
            assert read == pytest.approx(value)
    assert len(found) == sum(value is not None and value != {} for value in document.values())


def test_every_figure_is_there_and_what_is_unknown_is_left_out():
    stats = make(runs={"succeeded": 3, "failed": 1}, agents_spawned=12, success_rate=0.75, memory_bytes=None, cpu_time_s=1.5e-7, uptime_s=1e9)
    agree({name: getattr(stats, name) for name in Stats.__struct_fields__}, prometheus_text(stats))


def test_nothing_at_all_is_valid_too():
    parse(prometheus_text(make(success_rate=None, cpu_time_s=None)))


def test_the_command_says_the_same_in_both_forms(tmp_path):
    spec = tmp_path / "one.yaml"
    spec.write_text(json.dumps({"metadata": {"name": "one"}, "tasks": [{"id": "t", "description": "T", "run": "true"}]}))
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TOKA_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": ":".join(filter(None, sys.path))}

    def toka(*words):
        done = subprocess.run([sys.executable, "-m", "toka_cli", *words], env=environment, cwd=work, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    toka("orchestrate", str(spec))
    document = json.loads(toka("runtime", "stats", "-o", "json"))["data"]["stats"]
    assert document["runs"] == {"succeeded": 1}
    agree(document, toka("runtime", "stats", "--prometheus"))
