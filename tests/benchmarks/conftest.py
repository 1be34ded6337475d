"""Benchmarks run only when they are asked for: `pytest -n 0 -m benchmark tests/benchmarks`. Their figures are printed at the end as a table and written to
reports/benchmarks.json. What counts are ratios within one run; no time decides whether a benchmark passes."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FIGURES = pytest.StashKey[dict[str, dict[str, object]]]()


def pytest_configure(config):
    config.stash.setdefault(FIGURES, {})


def pytest_collection_modifyitems(config, items):
    wanted = "benchmark" in (config.option.markexpr or "") and "not benchmark" not in (config.option.markexpr or "")
    beside_others = hasattr(config, "workerinput")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.benchmark)
            item.add_marker(pytest.mark.timeout(900))
            if not wanted:
                item.add_marker(pytest.mark.skip(reason="benchmarks run with -m benchmark"))
            elif beside_others:
                item.add_marker(pytest.mark.skip(reason="benchmarks run alone: add -n 0"))


def pytest_terminal_summary(terminalreporter, config):
    figures = config.stash[FIGURES]
    if not figures:
        return
    document = {"schema": "toka.benchmarks/1", "machine": machine(), "figures": figures}
    path = ROOT / "reports" / "benchmarks.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    terminalreporter.section("benchmarks")
    terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in document["machine"].items()))
    for name, values in figures.items():
        terminalreporter.write_line(f"{name:44} " + "  ".join(f"{key} {value}" for key, value in values.items()))
    terminalreporter.write_line(f"written to {path}")


def machine():
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


@dataclass(frozen=True)
class Cost:
    """What a process and the children it waited for took, in seconds and bytes; the wall clock beside it."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


class Bench:
    """Measures whole processes. `record(name, key=value...)` keeps figures for the table."""

    def __init__(self, tmp_path, figures):
        self.root = tmp_path
        self.figures = figures
        self.state = tmp_path / "state"
        self.work = tmp_path / "work"
        self.work.mkdir()
        script = Path(sys.executable).with_name("toka")
        # The installed script if there is one; else the same in one line.
        self.toka = [str(script)] if script.exists() else [sys.executable, "-c", "from toka_cli.__main__ import main; main()"]
        self.env = {name: value for name in ("PATH", "LANG", "HOME") if (value := os.environ.get(name))} | {
            "TOKA_STATE_DIR": str(self.state)
        }

    def run(self, argv, **options):
        """Run to the end; its cost, its output. Fails if it fails."""
        started = time.perf_counter()
        process = subprocess.Popen(
            argv, env=self.env, cwd=self.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )
        output, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        process.stderr.close()
        assert process.returncode == 0, (argv, process.returncode, errors[-4000:])
        return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024), output

    def record(self, name, **values):
        self.figures[name] = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}

    def specs(self, agents):
        """A folder of specs: {name: (tasks, required names, more sections)}."""
        folder = self.root / f"specs{len(list(self.root.iterdir()))}"
        folder.mkdir()
        for name, (tasks, required, more) in agents.items():
            document = {"metadata": {"name": name}, "tasks": tasks, "dependencies": {"required": dict.fromkeys(required, "")}, **more}
            (folder / f"{name}.yaml").write_text(json.dumps(document))
        return folder

    def events(self, output):
        """The events of a JSONL stream; its last line is the envelope with the result."""
        return [found for line in output.splitlines() if "kind" in (found := json.loads(line))]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


@pytest.fixture
def bench(tmp_path, request):
    return Bench(tmp_path, request.config.stash[FIGURES])


@pytest.fixture
def medians():
    """Runs the measures of `{name: call}` in turn, so that a noisy moment hits all of them; the medians of CPU and wall seconds."""

    def measure(calls, rounds):
        found = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                found[name].append(call())
        return {
            name: (statistics.median(cost.cpu_s for cost in costs), statistics.median(cost.wall_s for cost in costs))
            for name, costs in found.items()
        }

    return measure


@pytest.fixture
def share():
    return percentile


@pytest.fixture(autouse=True)
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
