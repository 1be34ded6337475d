"""The security workstream: secrets in files and in the wheel, code that runs text, the agent's own environment, and who may read what it wrote.

    security.py secrets|code|environment|selftest

A line that must look like a secret carries the words `toka: not a secret`.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import sys
import zipfile
from pathlib import Path

from report import Report, files_of_the_project

NAME = "security"
ALLOWED = "toka: not a secret"
LARGEST_BYTES = 2_000_000
PATTERNS = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b"),
    "key of a model provider": re.compile(r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{24,}\b"),
    "Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Slack token": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{20,}\b"),
    "password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"{}<>]+:[^\s/@'\"{}<>$]{6,}@(?!host\.example\b)[\w.-]+"),
}
KEY_NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|SECRET|TOKEN|PASSWORD|CREDENTIALS?)S?$")
FORBIDDEN_CALLS = frozenset({"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"})
FORBIDDEN_MODULES = frozenset({"pickle", "marshal", "shelve", "dill", "cloudpickle"})


def secrets() -> int:
    report = Report(NAME, "secrets", "Secrets in files")
    found, note = files_of_the_project()
    if note:
        report.leave_out(note)
    problems: list[str] = []
    for path in found:
        if path.stat().st_size > LARGEST_BYTES:
            report.leave_out(f"{path}: larger than {LARGEST_BYTES} bytes")
        else:
            problems += suspicious(str(path), path.read_bytes())
    report.check(f"no secret in {len(found)} files", problems)
    wheels = sorted(Path("reports/build-system/dist").glob("*.whl"))
    if not wheels:
        report.leave_out("the wheel: build-system has not made it")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            inside = [problem for name in archive.namelist() for problem in suspicious(f"{wheel.name}: {name}", archive.read(name))]
            odd = [name for name in archive.namelist() if name.startswith("/") or ".." in name.split("/") or Path(name).name.startswith(".env")]
        report.check("no secret in the wheel", inside)
        report.check("no path in the wheel leads out of it", odd)
    status = report.finish()
    close(report)
    return status


def suspicious(name: str, data: bytes) -> list[str]:
    """Where a file holds what looks like a secret. The secret itself is never repeated."""
    if b"\0" in data[:8192]:
        return []
    problems: list[str] = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        if ALLOWED not in line:
            problems += [f"{name}:{number}: {what}" for what, pattern in PATTERNS.items() if pattern.search(line)]
    return problems


def code() -> int:
    report = Report(NAME, "code", "Code that would run text as a program")
    paths = sorted(Path("toka_cli").rglob("*.py"))
    problems = [problem for path in paths for problem in dangerous(str(path), path.read_text(encoding="utf-8"))]
    report.check(f"{len(paths)} files of the package run no text, read no pickles and give nothing to a shell of their own", problems)
    return report.finish()


def dangerous(name: str, source: str) -> list[str]:
    """Calls and imports that have no place in the package."""
    problems: list[str] = []
    for node in ast.walk(ast.parse(source, name)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS:
                problems.append(f"{where}: {called}")
            problems += [
                f"{where}: {called} with shell=True"
                for given in node.keywords
                if given.arg == "shell" and called.startswith("subprocess.") and not (isinstance(given.value, ast.Constant) and given.value.value is False)
            ]
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        problems += [f"{where}: imports {one}" for one in names if one.partition(".")[0] in FORBIDDEN_MODULES]
    return problems


def environment() -> int:
    report = Report(NAME, "environment", "What this agent's process was given")
    report.check("no variable has the name of a secret", sorted(name for name in os.environ if KEY_NAMES.search(name)))
    report.check("no value looks like a secret", [name for name, value in os.environ.items() if suspicious(name, value.encode())])
    for name in ("HOME", "TMPDIR"):
        folder = Path(os.environ[name])
        report.check(f"{name} is closed to others", [] if not folder.stat().st_mode & 0o077 else [stat.filemode(folder.stat().st_mode)])
    ours = sorted(path for path in report.folder.rglob("*") if path.is_file())
    report.check("nobody else may change the reports", [str(path) for path in ours if path.stat().st_mode & stat.S_IWOTH])
    open_ones = [str(path) for path in ours if path.stem == "secrets" and path.stat().st_mode & 0o077]
    report.check("only the owner may read where secrets were found", open_ones)
    report.section("Names of the variables", ", ".join(f"`{name}`" for name in sorted(os.environ)))
    return report.finish()


def close(report: Report) -> None:
    """A list of places with secrets is for the owner alone."""
    for path in (report.markdown, report.json):
        path.chmod(0o600)


def selftest() -> int:
    """The gate: planted secrets and dangerous code are found, and a marked line is not."""
    # Put together here, so that this file holds none of them.
    planted = {
        "private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
        "AWS access key": "AKIA" + "A1B2C3D4E5F6G7H8",
        "GitHub token": "ghp_" + "a1B2" * 9,
        "key of a model provider": "sk-" + "ant-" + "a1B2" * 8,
        "Google API key": "AIza" + "a1B2c" * 7,
        "Slack token": "xoxb-" + "123456789012-" * 2,
        "password in an address": "https://me:" + "hunter22@example.org/",
    }
    missed = [what for what, text in planted.items() if [f"x:1: {what}"] != suspicious("x", f"a = '{text}'".encode())]
    silenced = suspicious("x", f"{planted['GitHub token']}  # {ALLOWED}".encode())
    source = "import pickle\nimport subprocess\neval('1')\nsubprocess.run(f'ls {x}', shell=True)\nsubprocess.run(['ls'], shell=False)\n"
    found = dangerous("x", source)
    print(missed, silenced, found)
    wanted = ["x:1: imports pickle", "x:3: eval", "x:4: subprocess.run with shell=True"]
    return 0 if not missed and not silenced and sorted(found) == wanted else 1


if __name__ == "__main__":
    sys.exit({"secrets": secrets, "code": code, "environment": environment, "selftest": selftest}[sys.argv[1]]())
