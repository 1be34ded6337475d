"""The performance-observability workstream: how long toka takes to start, against a bare Python on the same machine at the same time.

    performance_observability.py measure|observe|plausible

Nothing here fails because a machine is slow: figures are reported, and only a report that cannot be true is refused.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Report, confinement, toka

NAME = "performance-observability"
STARTUP = Path("reports") / NAME / "startup.json"
ROUNDS = 5
TINY = "metadata: {name: tiny}\ntasks:\n  default:\n    - {id: nothing, description: Nothing, run: ['true']}\n"


def measured(argv: list[str], env: dict[str, str]) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds of the command and all it waited for, and its exit status."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    return wall, usage.ru_utime + usage.ru_stime, process.returncode


def prepared(base: str) -> tuple[str, str, dict[str, str]]:
    """A tiny spec, a directory to work on and, beside it, a state folder: toka refuses one that its agents could write into."""
    spec, workdir = Path(base) / "tiny.yaml", Path(base) / "work"
    spec.write_text(TINY, encoding="utf-8")
    workdir.mkdir()
    return str(spec), str(workdir), {"TOKA_STATE_DIR": str(Path(base) / "state")}


def measure() -> int:
    report = Report(NAME, "startup", "How long toka takes to start")
    with tempfile.TemporaryDirectory() as base:
        spec, workdir, places = prepared(base)
        env, walls = {**os.environ, **places}, confinement(report)
        program = [sys.executable, "-m", "toka_cli"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "toka --version": [*program, "--version"],
            "toka --help": [*program, "--help"],
            "toka agent list": [*program, "agent", "list"],
            "toka orchestrate, one agent": [*program, "orchestrate", spec, "--workdir", workdir, "--no-watch", *walls],
        }
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
        # In turns, so that a slow moment of the machine meets all of them; the first turn only warms up caches.
        for turn in range(ROUNDS + 1):
            for name, argv in commands.items():
                result = measured(argv, env)
                if turn or result[2]:
                    found[name].append(result)
    report.check("every command ends with 0", [f"{name}: {result[2]}" for name, results in found.items() for result in results if result[2]])
    bare = statistics.median(cpu for _, cpu, _ in found["python -c pass"])
    rows = [
        {
            "command": name,
            "runs": len(results),
            "wall_s": round(statistics.median(wall for wall, _, _ in results), 4),
            "cpu_s": round(statistics.median(cpu for _, cpu, _ in results), 4),
            "cpu_ratio": round(statistics.median(cpu for _, cpu, _ in results) / bare, 1) if bare else None,
        }
        for name, results in found.items()
    ]
    report.data |= {"machine": machine(), "commands": rows}
    lines = ["| command | wall | CPU | CPU against bare Python |", "| --- | --- | --- | --- |"]
    lines += [f"| `{row['command']}` | {row['wall_s']:.3f} s | {row['cpu_s']:.3f} s | {row['cpu_ratio']} |" for row in rows]
    words = ", ".join(f"{name} {value}" for name, value in machine().items())
    report.section("Medians", "\n".join([*lines, "", f"{ROUNDS} runs each, in turns, after one that does not count. {words}."]))
    return report.finish()


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {"system": platform.system(), "processor": platform.machine(), "processors": os.cpu_count(), "python": platform.python_version()}


def observe() -> int:
    """Are the figures of a run there for who wants to watch it?"""
    report = Report(NAME, "observability", "What can be seen of a run")
    with tempfile.TemporaryDirectory() as base:
        spec, workdir, env = prepared(base)
        lines = toka("orchestrate", spec, "--workdir", workdir, "-o", "jsonl", *confinement(report), env=env).stdout.splitlines()
        events = [json.loads(line) for line in lines]
        report.check("every line of -o jsonl is JSON", [] if events else ["there is none"])
        shown = json.loads(toka("agent", "show", "tiny", "-o", "json", env=env).stdout)["data"]["agent"]
        for name in ("duration_s", "cpu_time_s", "peak_memory_bytes"):
            value = shown[name]
            report.check(f"{name} of an agent is measured, or null", [] if value is None or value > 0 else [str(value)])
        report.check("progress is 1 at the end", [] if shown["progress"] == 1 and shown["tasks_done"] == 1 else [str(shown["progress"])])
        stats = json.loads(toka("runtime", "stats", "-o", "json", env=env).stdout)
        report.check("toka runtime stats counts the run", [] if stats["exit_code"] == 0 and stats["data"]["stats"] else [json.dumps(stats)])
        report.data |= {"events": len(events), "agent": {name: shown[name] for name in ("duration_s", "cpu_time_s", "peak_memory_bytes")}}
    return report.finish()


def plausible() -> int:
    """The gate: every command was measured as often as promised, and no figure is one that cannot be."""
    report = json.loads(STARTUP.read_text(encoding="utf-8"))
    rows = {row["command"]: row for row in report["commands"]}
    whole = len(rows) == 5 and all(row["runs"] == ROUNDS and math.isfinite(row["wall_s"]) and row["wall_s"] > 0 for row in rows.values())
    # No process uses more CPU than all processors had in that time; clocks of this kind tick up to 10 ms apart.
    most = os.cpu_count() or 1
    possible = whole and all(0 <= row["cpu_s"] <= row["wall_s"] * most + 0.1 for row in rows.values())
    print(whole, possible)
    return 0 if possible and report["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit({"measure": measure, "observe": observe, "plausible": plausible}[sys.argv[1]]())
