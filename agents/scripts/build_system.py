"""The build-system workstream: are the versions consistent, can the wheel be built without a network, and is everything in it?

    build_system.py versions|wheel|contents
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from report import Report, files_of_the_project

NAME = "build-system"
DIST = Path("reports") / NAME / "dist"
# Any moment will do, if it is always the same: the times in the archive then do not depend on when the tree was checked out.
EPOCH = "1704067200"
SHOWN = 10


def version_of_tree() -> str:
    """The version that the source says, read without importing it."""
    found = re.search(r'^__version__ = "([^"]+)"$', Path("toka_cli/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "none"


def versions() -> int:
    report = Report(NAME, "versions", "Versions")
    version = version_of_tree()
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    report.check("pyproject.toml takes the version from the source", [] if "version" in project.get("dynamic", ()) else ["the version is written twice"])
    report.check("the version has the form N.N.N", [] if re.fullmatch(r"\d+\.\d+\.\d+\S*", version) else [f"toka_cli.__version__ is {version}"])
    changelog = Path("CHANGELOG.md")
    if not changelog.is_file():
        report.check("the changelog exists", ["CHANGELOG.md is missing"])
    else:
        headings = re.findall(r"^## +\[?v?(\d[^\]\s]*)", changelog.read_text(encoding="utf-8"), re.MULTILINE)
        newest = headings[0] if headings else "nothing"
        report.check("the changelog's newest version is this one", [] if newest == version else [f"CHANGELOG.md says {newest}, the source {version}"])
    installed = importlib.metadata.version("toka")
    if installed != version:
        report.leave_out(f"the installed metadata says {installed}: install again to bring it up to date")
    needed = project["requires-python"].removeprefix(">=")
    oldest = tuple(int(part) for part in needed.split("."))
    report.check(f"this Python is at least {needed}", [] if sys.version_info >= oldest else [sys.version])
    return report.finish()


def wheel() -> int:
    report = Report(NAME, "wheel", "The wheel")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as again:
        how, problems = build(DIST)
        report.check(f"the wheel can be built without a network ({how})", problems)
        if not problems:
            _, problems = build(Path(again))
            first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for folder in (DIST, Path(again)) for path in folder.glob("*.whl"))
            report.check("building it twice gives the same bytes", problems or ([] if first == second else [f"{first} and then {second}"]))
    return report.finish()


def build(folder: Path) -> tuple[str, list[str]]:
    """Build the wheel into a folder, with pip where there is one, else by asking the build backend itself."""
    asked = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w"]
    how, argv = "by pip", [*asked, str(folder), "."]
    if subprocess.run([sys.executable, "-c", "import pip"], capture_output=True, check=False).returncode:
        how = "by flit_core, as there is no pip here"
        argv = [sys.executable, "-c", "import sys; from flit_core.buildapi import build_wheel; build_wheel(sys.argv[1])", str(folder)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})
    if ended.returncode == 0 and len(list(folder.glob("*.whl"))) == 1:
        return how, []
    words = (ended.stderr or ended.stdout).strip()
    missing = "flit_core" in words and ("No module" in words or "Cannot import" in words)
    return how, [words[-1500:] + ("\nflit_core is missing; install it with: pip install -e '.[agents]'" if missing else "")]


def contents() -> int:
    report = Report(NAME, "contents", "What is in the wheel")
    found = sorted(DIST.glob("*.whl"))
    version = version_of_tree()
    report.check("there is one wheel, of this version", [] if [path.name for path in found] == [f"toka-{version}-py3-none-any.whl"] else [str(found)])
    if not found:
        return report.finish()
    info = f"toka-{version}.dist-info"
    with zipfile.ZipFile(found[0]) as archive:
        names = set(archive.namelist())
        ours, note = files_of_the_project()
        if note:
            report.leave_out(note)
        wanted = {path.as_posix() for path in ours if path.parts[0] == "toka_cli"}
        report.check("every file of the package is in it", sorted(wanted - names))
        rooms = {path.split("/")[1] for path in names if path.startswith("toka_cli/") and path.count("/") > 1}
        report.check("py.typed is in it, so that type checkers believe the annotations", [] if "toka_cli/py.typed" in names else ["it is missing"])
        # The build backend takes every file that lies in the package's folder, so what git ignores could slip in.
        strange = sorted(name for name in names - wanted if not name.startswith(f"{info}/"))
        more = [f"and {len(strange) - SHOWN} more: remove them from the folder and build again"] if len(strange) > SHOWN else []
        report.check("nothing else is in it", strange[:SHOWN] + more)
        report.check("the license is in it", [] if any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in names) else ["no LICENSE"])
        points = archive.read(f"{info}/entry_points.txt").decode()
        report.check("it installs the program toka", [] if re.search(r"^toka ?= ?toka_cli\.__main__:main$", points, re.MULTILINE) else [points])
        report.check("RECORD has the right hash of every file", wrong_hashes(archive, info))
    report.data["rooms"] = sorted(rooms)
    report.section("Rooms", ", ".join(sorted(rooms)))
    return report.finish()


def wrong_hashes(archive: zipfile.ZipFile, info: str) -> list[str]:
    """Files whose bytes are not those that RECORD promises."""
    problems: list[str] = []
    for line in archive.read(f"{info}/RECORD").decode().splitlines():
        name, digest, _ = line.rsplit(",", 2)
        if digest:
            real = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            problems += [] if digest == f"sha256={real}" else [name]
    return problems


if __name__ == "__main__":
    sys.exit({"versions": versions, "wheel": wheel, "contents": contents}[sys.argv[1]]())
