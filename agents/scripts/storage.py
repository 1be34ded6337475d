"""The storage workstream: makes a real run in a state folder of its own and looks closely at the file that is left.

    storage.py statefile|selftest
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from report import Report, confinement, toka

from toka_cli.paths import RunFolder, runs_dir
from toka_cli.state import fold, query, rows, schema

NAME = "storage"
SPEC = """\
metadata: {name: tiny}
tasks:
  default:
    - {id: say, description: Say something, run: "echo hello; echo 'not so well' >&2"}
    - {id: fail, description: Fail and be forgiven, run: ["false"], retries: {max: 1, delay: 10ms}, allow_failure: true}
    - {id: note, description: Report a number, tool: report_metric, args: {name: answer, value: 42}}
"""
# Measured between events, so the fold cannot know them.
SAMPLED = ("memory_bytes", "peak_memory_bytes", "cpu_time_s")


def make_run(base: Path, report: Report | None = None) -> tuple[RunFolder, dict[str, str], str]:
    """Run a tiny spec in a state folder below `base`: the run's folder, the environment that leads there, and what went wrong."""
    # Beside each other: toka refuses a state folder that its agents could write into.
    workdir = base / "work"
    workdir.mkdir()
    spec = base / "tiny.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    env = {"TOKA_STATE_DIR": str(base / "state")}
    ended = toka("orchestrate", str(spec), "--workdir", str(workdir), "--no-watch", *confinement(report), env=env)
    folders = list(runs_dir(base / "state").iterdir()) if runs_dir(base / "state").is_dir() else []
    if ended.returncode or len(folders) != 1:
        return RunFolder(base), env, f"the run ended with {ended.returncode}, {len(folders)} folders: {ended.stderr[-1500:]}"
    return RunFolder(folders[0]), env, ""


def statefile() -> int:
    report = Report(NAME, "statefile", "A state file, looked at closely")
    with tempfile.TemporaryDirectory() as base:
        folder, env, problem = make_run(Path(base), report)
        report.check("a tiny run succeeds and leaves one folder", [problem] if problem else [])
        if not problem:
            look_at_file(report, folder)
            look_at_views(report, folder)
            verified = toka("audit", "verify", folder.run_id, env=env)
            report.check("toka audit verify agrees", [] if verified.returncode == 0 else [verified.stdout + verified.stderr])
            look_at_permissions(report, Path(base) / "state")
    return report.finish()


def look_at_file(report: Report, folder: RunFolder) -> None:
    """What SQLite itself says of the file."""
    with sqlite3.connect(f"file:{folder.database}?mode=ro", uri=True) as connection:

        def ask(question: str) -> list[Any]:
            return [row[0] for row in connection.execute(question)]

        report.check("PRAGMA integrity_check says ok", [] if (said := ask("PRAGMA integrity_check")) == ["ok"] else said)
        report.check("PRAGMA foreign_key_check finds nothing", [str(row) for row in connection.execute("PRAGMA foreign_key_check")])
        [version], [application] = ask("PRAGMA user_version"), ask("PRAGMA application_id")
        report.check(f"the file has version {schema.VERSION}", [] if version == schema.VERSION else [f"user_version is {version}"])
        report.check("the file says that it is one of toka", [] if application == schema.APPLICATION_ID else [hex(application)])
        tables = {row[1]: row[5] for row in connection.execute("PRAGMA table_list") if not row[1].startswith("sqlite_")}
        report.check(f"all {len(tables)} tables are STRICT", sorted(name for name, strict in tables.items() if not strict))
        [journal] = ask("PRAGMA journal_mode")
        left = sorted(path.name for path in folder.root.glob("run.db-*"))
        report.check("a finished run is one file, without a log beside it", left)
        events = ask("SELECT seq FROM events ORDER BY seq")
        report.check("events are numbered without a gap", [] if events == list(range(1, len(events) + 1)) else [str(events)])
        report.data |= {"events": len(events), "journal_mode": journal, "sqlite": sqlite3.sqlite_version, "tables": len(tables)}
    connection.close()


def look_at_views(report: Report, folder: RunFolder) -> None:
    """The stored view against the one that the events tell."""
    with schema.reading(folder.database) as connection:
        stored = rows.read_view(connection)
    told = fold.fold(query.read_events(folder))
    seen, again = comparable(stored), comparable(told)
    different = sorted(name for name in seen.keys() | again.keys() if seen.get(name) != again.get(name))
    report.check("the stored view is the one that the events tell", [f"{name}: {seen.get(name)} against {again.get(name)}" for name in different])
    tiny = stored.agents[0]
    states = {task.id: (task.state.value, task.attempts) for task in tiny.tasks}
    wanted = {"say": ("succeeded", 1), "fail": ("failed", 2), "note": ("succeeded", 1)}
    report.check("the view shows what happened", [] if states == wanted and tiny.metrics == {"answer": 42.0} else [str(states), str(tiny.metrics)])


def comparable(view: Any) -> dict[str, Any]:
    """A view without what no event says."""
    plain = msgspec.to_builtins(view)
    del plain["audit_head"]
    for agent in plain["agents"]:
        for name in SAMPLED:
            agent.pop(name, None)
    return dict(plain)


def look_at_permissions(report: Report, state: Path) -> None:
    """Nobody else may read what agents wrote."""
    mode = state.stat().st_mode
    report.check("the state folder is closed to others", [stat.filemode(mode)] if mode & 0o077 else [])


def selftest() -> int:
    """The gate: one decision in a copy of the audit trail is changed, and both toka and the chain say so."""
    with tempfile.TemporaryDirectory() as base:
        folder, env, problem = make_run(Path(base))
        if problem:
            print(problem)
            return 1
        whole = toka("audit", "verify", folder.run_id, env=env).returncode
        copy = Path(base) / "copy"
        shutil.copy(folder.database, copy)
        with sqlite3.connect(copy) as connection:
            connection.execute("DROP TRIGGER audit_fixed")
            changed = connection.execute("UPDATE audit SET decision = 'denied' WHERE seq = 1").rowcount
        connection.close()
        os.replace(copy, folder.database)
        verified = toka("audit", "verify", folder.run_id, "-o", "json", env=env)
        print(whole, changed, verified.returncode, verified.stdout)
        found = json.loads(verified.stdout)
        return 0 if whole == 0 and changed == 1 and verified.returncode != 0 and "row 1" in json.dumps(found) else 1


if __name__ == "__main__":
    sys.exit({"statefile": statefile, "selftest": selftest}[sys.argv[1]]())
