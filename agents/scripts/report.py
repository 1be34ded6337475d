"""What a workstream found: kept while it looks, written at the end as reports/NAME/PART.md for people and PART.json for gates.

One line of JSON goes to stdout (the spec's output_schema holds it), every problem to stderr. Nothing outside reports/NAME is written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# What is looked at is this tree's own package, whichever toka runs the agent.
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

NOT_OURS = frozenset({".git", ".venv", "venv", "__pycache__", "node_modules", "reports", "build", "dist", ".hypothesis"})
ENDINGS_OF_CACHES = ("_cache", ".egg-info")


class Report:
    """One part of a workstream's report. The files of an earlier run are removed first, so that an old report proves nothing."""

    def __init__(self, name: str, part: str, title: str) -> None:
        self.name, self.part, self.title = name, part, title
        self.folder = Path("reports") / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checks: list[tuple[str, list[str]]] = []
        self.not_checked: list[str] = []
        self.sections: list[str] = []
        self.data: dict[str, object] = {}
        for path in (self.markdown, self.json):
            path.unlink(missing_ok=True)

    @property
    def markdown(self) -> Path:
        """The report for people."""
        return self.folder / f"{self.part}.md"

    @property
    def json(self) -> Path:
        """The report for gates."""
        return self.folder / f"{self.part}.json"

    def check(self, what: str, problems: list[str]) -> None:
        """Something was looked at; it is as it should be when there are no problems."""
        self.checks.append((what, problems))

    def leave_out(self, what: str) -> None:
        """Something could not be looked at here, and why."""
        self.not_checked.append(what)

    def section(self, heading: str, text: str) -> None:
        """More for people to read."""
        self.sections.append(f"## {heading}\n\n{text.strip()}\n")

    def finish(self) -> int:
        """Write both files and say the outcome; the exit status: 1 if there is a problem, or if nothing at all was checked."""
        failed = sum(bool(problems) for _, problems in self.checks)
        lines = [f"# {self.title}", "", f"{len(self.checks)} checks, {failed} failed, {len(self.not_checked)} left out.", ""]
        for what, problems in self.checks:
            lines.append(f"- {'FAILED' if problems else 'ok'}: {what}")
            lines += [f"  - {problem}" for problem in problems]
        lines += [f"- not checked: {what}" for what in self.not_checked]
        self.markdown.write_text("\n".join([*lines, "", *self.sections]).rstrip() + "\n", encoding="utf-8")
        found = {"part": self.part, "checked": len(self.checks), "failed": failed, "not_checked": self.not_checked}
        whole = {**found, "checks": [{"what": what, "problems": problems} for what, problems in self.checks], **self.data}
        self.json.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for what, problems in self.checks:
            for problem in problems:
                print(f"{what}: {problem}", file=sys.stderr)
        print(json.dumps(found))
        return 1 if failed or not self.checks else 0


def files_of_the_project() -> tuple[list[Path], str | None]:
    """Every file that git tracks or would track. Without a usable repository: every file but caches, and a sentence that says so."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        listed = b""
    paths = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
    if Path("pyproject.toml") in paths:
        return sorted(path for path in set(paths) if path.is_file() and not path.is_symlink()), None
    found: list[Path] = []
    for folder, names, files in os.walk("."):
        names[:] = sorted(name for name in names if name not in NOT_OURS and not name.endswith(ENDINGS_OF_CACHES))
        found += [Path(folder, name) for name in files if not Path(folder, name).is_symlink()]
    return sorted(found), "git does not list this tree: all its files but caches were taken instead"


def confinement(report: Report | None = None) -> list[str]:
    """Words for a toka that these scripts start: where nothing can hold walls, whoever runs this agent has said --no-sandbox, and it says so too."""
    from toka_cli.sandbox import probe

    facts = probe.walls()
    if facts.level != "process":
        return []
    if report is not None:
        report.leave_out(f"walls: there are none here ({'; '.join(why for _, why, _ in facts.notes)})")
    return ["--no-sandbox"]


def toka(*words: str, env: dict[str, str] | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run this very toka as a program of its own; `env` is added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "toka_cli", *words],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
