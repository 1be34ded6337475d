"""The ci workstream: is what was generated and checked in still what would be generated now, and does CI run what the README promises?

    ci.py completions|schema|readme|selftest
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path

from report import Report, toka

NAME = "ci"
SHELLS = ("bash", "zsh", "fish")
SCHEMA = Path("agents/spec.schema.json")
MARKED = re.compile(r"^<!-- ([\w-]+) -->\n```(?:sh|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def completions() -> int:
    report = Report(NAME, "completions", "Shell completions")
    for shell in SHELLS:
        made = toka(env={"_TOKA_COMPLETE": f"source_{shell}"})
        path = Path("completions") / f"toka.{shell}"
        if made.returncode or not made.stdout.strip():
            report.check(f"the completion for {shell} can be made", [made.stderr.strip() or "nothing was printed"])
        else:
            same = path.is_file() and path.read_text(encoding="utf-8") == made.stdout
            report.check(f"{path} is current", [] if same else [f"make it again with: _TOKA_COMPLETE=source_{shell} toka > {path}"])
    return report.finish()


def schema() -> int:
    import jsonschema
    import yaml

    report = Report(NAME, "schema", "The schema of specs")
    made = toka("spec", "schema")
    report.check("the schema can be printed", [] if made.returncode == 0 else [made.stderr.strip()])
    same = SCHEMA.is_file() and SCHEMA.read_text(encoding="utf-8") == made.stdout
    report.check(f"{SCHEMA} is current", [] if same else [f"make it again with: toka spec schema > {SCHEMA}"])
    schema = json.loads(made.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in sorted([*Path("agents").glob("*.yaml"), *Path("agents/examples").glob("*.yaml")]):
        problems: list[str] = []
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            problems += [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(document)]
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        if named is None or (path.parent / named[1]).resolve() != SCHEMA.resolve():
            problems.append("its first line does not lead editors to the schema")
        report.check(f"{path} fits the schema", problems)
    return report.finish()


def readme() -> int:
    report = Report(NAME, "readme", "The README's commands and CI")
    script = Path(".ci/run")
    if not script.exists() and not Path(".git").exists():
        report.leave_out(".ci/run: this tree is not a clone, and archives of the source come without it")
        report.check("the README marks commands", [] if commands(Path("README.md")) else ["none is marked"])
        return report.finish()
    if not script.is_file():
        report.check("CI has a script", [".ci/run is missing"])
        return report.finish()
    text = script.read_text(encoding="utf-8")
    runs = os.access(script, os.X_OK) and text.startswith("#!")
    report.check(".ci/run can be executed", [] if runs else [f"mode {stat.filemode(script.stat().st_mode)}, begins with {text[:20]!r}"])
    marked = commands(Path("README.md"))
    report.check("the README marks two commands", [] if len(marked) == 2 else [f"it marks {', '.join(marked) or 'none'}"])
    report.check("CI runs what the README marks, all of it and in that order", different(list(marked), text))
    for said, (name, command) in zip(("toka orchestrate agents/", "pytest"), marked.items(), strict=False):
        report.check(f"the command {name} is about {said}", [] if said in command else [command])
    return report.finish()


def commands(page: Path) -> dict[str, str]:
    """The commands that a page marks for CI: a comment with a name, then a block for the shell."""
    return {name: command.strip() for name, command in MARKED.findall(page.read_text(encoding="utf-8"))}


def different(names: list[str], script: str) -> list[str]:
    """What is wrong with a script that should run the marked commands of README.md, by name."""
    called = re.findall(r"^run_readme_command (\S+)$", script, re.MULTILINE)
    reads = "README.md" in script
    return ([] if reads else ["it does not read README.md"]) + ([] if called == names else [f"it runs {called}, the README marks {names}"])


def selftest() -> int:
    """The gate: a command that CI does not run is found, and the schema refuses what it should refuse."""
    import jsonschema

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    refused = [not validator.is_valid(wrong) for wrong in ({}, {"metadata": {"name": "a"}}, {"metadata": {}, "tasks": ["x"]}, {"agents": []})]
    found = [bool(different(["a", "b"], f"sed README.md\n{calls}")) for calls in ("run_readme_command a\n", "run_readme_command a\nrun_readme_command b\n")]
    seen = (found, refused, validator.is_valid({"metadata": {"name": "a"}, "tasks": ["x"]}))
    print(seen)
    return 0 if seen == ([True, False], [True] * 4, True) else 1


if __name__ == "__main__":
    sys.exit({"completions": completions, "schema": schema, "readme": readme, "selftest": selftest}[sys.argv[1]]())
