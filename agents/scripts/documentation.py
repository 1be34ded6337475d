"""The documentation workstream: do relative links lead somewhere, do the commands exist, do the specs in the text load?

    documentation.py links|commands|specs|selftest
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from report import Report, files_of_the_project

NAME = "documentation"
LINK = re.compile(r"(?<!\\)!?\[[^\]\n]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
FENCE = re.compile(r"^ {0,3}(```+|~~~+)\s*([\w+-]*)[^\n]*\n(.*?)^ {0,3}\1\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELLS = frozenset({"", "sh", "bash", "shell", "console", "text"})
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_-]*(?:\.\.\.)?|\.\.\.|…|<[^>]*>")


def pages(report: Report) -> list[Path]:
    """All Markdown files."""
    found, note = files_of_the_project()
    if note:
        report.leave_out(note)
    return [path for path in found if path.suffix == ".md"]


# --- links ---------------------------------------------------------------------------------------------------------------------------


def links() -> int:
    report = Report(NAME, "links", "Relative links")
    found = pages(report)
    report.check("there are pages", [] if found else ["no Markdown file"])
    count = 0
    for page in found:
        number, problems = broken_links(page)
        count += number
        if number:
            report.check(f"the links of {page}", problems)
    report.section("Counted", f"{count} relative links in {len(found)} pages. Links to other machines are not followed.")
    return report.finish()


def broken_links(page: Path) -> tuple[int, list[str]]:
    """How many relative links a page has, and which of them lead nowhere."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
    text = INLINE.sub("", text)
    problems: list[str] = []
    count = 0
    for link in LINK.finditer(text):
        address = link[1]
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", address):
            continue
        count += 1
        name, _, anchor = address.partition("#")
        target = page.parent / unquote(name) if name else page
        line = text.count("\n", 0, link.start()) + 1
        if not target.exists():
            problems.append(f"{page}:{line}: {address}: no such file")
        elif anchor and target.suffix == ".md" and anchor.lower() not in anchors(target):
            problems.append(f"{page}:{line}: {address}: no such heading")
    return count, problems


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by the rule of the big code hosts."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := plain if number == 0 else f"{plain}-{number}") in found:
            number += 1
        found.add(name)
    return found


# --- commands ------------------------------------------------------------------------------------------------------------------------


def commands() -> int:
    import typer

    from toka_cli.app import app

    report = Report(NAME, "commands", "Commands in the text")
    root = typer.main.get_command(app)
    shown = 0
    for page in pages(report):
        found = commands_of(page)
        shown += len(found)
        problems = [f"{page}:{line}: {words}: {problem}" for line, words in found for problem in wrong_words(root, words)]
        if found:
            report.check(f"the commands of {page}", problems)
    report.check("the README shows commands", [] if commands_of(Path("README.md")) else ["README.md shows no toka command"])
    report.section("Counted", f"{shown} times a command line of toka.")
    return report.finish()


def commands_of(page: Path) -> list[tuple[int, str]]:
    """Lines and command lines that begin with `toka`, of blocks for the shell and of inline code."""
    text = page.read_text(encoding="utf-8")
    found: list[tuple[int, str]] = []
    for block in FENCE.finditer(text):
        if block[2] in SHELLS:
            start = text.count("\n", 0, block.start(3)) + 1
            joined = re.sub(r"\\\n\s*", " ", block[3])
            for number, line in enumerate(joined.splitlines()):
                found += [(start + number, words) for part in re.split(r"&&|\|\||;|(?<!\w)\|(?!\w)", line) if (words := toka_words(part))]
    plain = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for code in INLINE.finditer(plain):
        words = toka_words(code[1])
        if words:
            found.append((plain.count("\n", 0, code.start()) + 1, words))
    return found


def toka_words(part: str) -> str | None:
    """What follows the program's name, when this is a command line of toka; assignments and a path before the name are left out."""
    match = re.match(r"^\s*(?:\$ )?(?:[A-Z_]+=\S* )*(?:\S*/)?toka\s+(\S.*?)\s*$", part)
    return match[1] if match else None


def wrong_words(root: Any, text: str) -> list[str]:
    """What in a command line does not exist: commands and options; values and placeholders are not looked at."""
    try:
        words = shlex.split(re.sub(r"[\[\]()]", " ", text), comments=True)
    except ValueError as error:
        return [f"cannot be read: {error}"]
    command, groups = root, [root]
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word.startswith(("<", ">")) and not PLACEHOLDER.fullmatch(word):
            break
        if word.startswith("-") and word != "-":
            problem, takes_value = option_problem([*groups, command], word)
            if problem:
                return [problem]
            index += takes_value
        elif hasattr(command, "commands"):
            if PLACEHOLDER.fullmatch(word):
                return []
            alternatives = word.split("|")
            unknown = [name for name in alternatives if name not in command.commands]
            if unknown:
                return [f"there is no command {' '.join(unknown)}"]
            if len(alternatives) > 1:
                return []
            groups.append(command)
            command = command.commands[word]
    return []


def option_problem(commands: list[Any], word: str) -> tuple[str | None, int]:
    """Whether one of these commands knows an option, and how many words its value takes."""
    for option in word.split("|"):
        name, equals, _ = option.partition("=")
        for command in reversed(commands):
            parameter = next((one for one in command.params if name in (*one.opts, *one.secondary_opts)), None)
            if parameter is None and len(name) > 2 and not name.startswith("--"):
                parameter = next((one for one in command.params if name[:2] in one.opts), None)
                equals = "="
            if parameter is not None:
                value = not equals and not getattr(parameter, "is_flag", False) and not getattr(parameter, "count", False)
                return None, 1 if value else 0
        if name not in {"-h", "--help"}:
            return f"there is no option {name}", 0
    return None, 0


# --- specs ---------------------------------------------------------------------------------------------------------------------------


def specs() -> int:
    import yaml

    from toka_cli.spec.load import load_paths, load_text

    report = Report(NAME, "specs", "Specs in the text, and those of this project")
    loaded = load_paths(["agents"])
    report.check("the specs in agents/", [f"{problem.where}: {problem.message}" for problem in loaded.problems])
    for path in sorted(Path("agents/examples").glob("*.yaml")):
        report.check(f"{path}", [f"{problem.where}: {problem.message}" for problem in load_paths([path]).problems])
    for page in pages(report):
        text = page.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            if block[2] not in {"yaml", "yml"} or not re.search(r"^(?:metadata|agents):", block[3], re.MULTILINE):
                continue
            line = text.count("\n", 0, block.start(3)) + 1
            if re.search(r"^agents:", block[3], re.MULTILINE):
                # The files that an orchestration file names are not there beside the text: its shape is all that can be wrong.
                problems = schema_problems(yaml.safe_load(block[3]))
            else:
                problems = [f"{problem.where}: {problem.message}" for problem in load_text(block[3], path=f"{page}:{line}").errors]
            report.check(f"the spec at {page}:{line}", problems)
    return report.finish()


def schema_problems(document: Any) -> list[str]:
    """What the published schema says against a document."""
    import jsonschema

    from toka_cli.spec.schema import json_schema

    return [error.message[:300] for error in jsonschema.Draft202012Validator(json_schema()).iter_errors(document)]


def selftest() -> int:
    """The gate: faults that are put into a page are found, so that silence means something."""
    import typer

    from toka_cli.app import app

    root = typer.main.get_command(app)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        page.write_text("# A heading\n[a](missing.md) [b](#a-heading) [c](#no-heading) `[d](e)`\n```sh\ntoka orchestrat x\n```\n", encoding="utf-8")
        count, problems = broken_links(page)
        wrong = [wrong_words(root, words) for _, words in commands_of(page)]
    right = [wrong_words(root, words) for words in ("orchestrate DIR --max-agents 3 -o json", "agent show|logs NAME", "-v run list --live")]
    seen = (count, len(problems), wrong, right, wrong_words(root, "run list --lively"))
    print(seen)
    expected = (3, 2, [["there is no command orchestrat"]], [[], [], []], ["there is no option --lively"])
    return 0 if seen == expected else 1


if __name__ == "__main__":
    sys.exit({"links": links, "commands": commands, "specs": specs, "selftest": selftest}[sys.argv[1]]())
