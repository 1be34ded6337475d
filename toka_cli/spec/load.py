"""Loads agent specs and orchestration files: paths come in, agents with places come out, and all problems of all files at once.

The only file that knows YAML. A document is read as events, counted while it is built (see `guard.py`), brought into the documented shape
(`dialect.py`) and read into models (`read.py`); nothing is parsed twice and no tag makes an object. Bad content never raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from toka_cli.errors import InvalidSpecs, NotFound, Problem, UsageError
from toka_cli.spec import dialect, find, guard
from toka_cli.spec.build import Builder
from toka_cli.spec.findings import Findings, Note
from toka_cli.spec.model import LoadedAgent, Orchestration
from toka_cli.spec.read import read_agent
from toka_cli.spec.read_both import read_orchestration
from toka_cli.spec.syntax import TAB, explained, lines_of, tab_in_lines
from toka_cli.spec.tree import Map, Node, Place, Seq, Text, is_null, places

STDIN: Final = "<stdin>"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded. `agents` holds only specs without an error, in the order of the files; `problems` are sorted by place.

    `orchestration_places` gives places by dotted path, as `LoadedAgent.places` does.
    """

    agents: tuple[LoadedAgent, ...]
    orchestration: Orchestration | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()
    orchestration_places: dict[str, Place] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that are errors."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that are warnings."""
        return tuple(problem for problem in self.problems if problem.severity != "error")

    def checked(self) -> Loaded:
        """Return itself. Raises InvalidSpecs with every problem when one of them is an error."""
        if self.errors:
            raise InvalidSpecs(self.problems)
        return self


def load_paths(paths: Sequence[str | Path], *, stdin: bytes | None = None, strict: bool = False) -> Loaded:
    """Load files, directories and `-` (the bytes of `stdin`), each file once. Under `strict` warnings are errors.

    Raises NotFound for a path that does not exist or a directory without a spec, UsageError for `-` without input; whatever is wrong with
    the content comes back in `problems`. How a directory is scanned is told in `find.py`.
    """
    loading = _Loading(strict)
    for path in paths:
        loading.argument(str(path), stdin)
    if not loading.agents and not loading.failed and loading.orchestration is None:
        names = ", ".join(str(path) for path in paths)
        raise NotFound(
            f"no agent spec in {names}", hint="a spec has `metadata: {name: ...}` and `tasks:`; begin one with: toka spec new NAME"
        )
    loading.check_names()
    problems = tuple(sorted(set(loading.problems), key=lambda problem: (problem.path, problem.line, problem.column, problem.message)))
    return Loaded(tuple(loading.agents), loading.orchestration, problems, tuple(loading.notes), loading.orchestration_places)


def load_text(text: str, *, path: str = STDIN, strict: bool = False) -> Loaded:
    """Load specs from text, as if it were the content of `path`. Never raises for bad content."""
    loading = _Loading(strict)
    loading.document_bytes(path, text.encode("utf-8", errors="surrogatepass"), scanned=False)
    loading.check_names()
    return Loaded(tuple(loading.agents), loading.orchestration, tuple(loading.problems), tuple(loading.notes), loading.orchestration_places)


def dump_yaml(obj: Any) -> str:
    """Return JSON-like data as YAML text that loads back to the same data."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(obj, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Loading:
    """One call of `load_paths`: what was loaded so far, and which files were read."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.agents: list[LoadedAgent] = []
        self.orchestration: Orchestration | None = None
        self.orchestration_places: dict[str, Place] = {}
        self.problems: list[Problem] = []
        self.notes: list[Note] = []
        self._read: set[str] = set()

    @property
    def failed(self) -> bool:
        """Whether an error was found."""
        return any(problem.severity == "error" for problem in self.problems)

    def argument(self, path: str, stdin: bytes | None) -> None:
        """Load one argument of the command line."""
        if path == "-":
            if stdin is None:
                raise UsageError("'-' reads a spec from standard input, and there is none")
            if STDIN not in self._read:
                self._read.add(STDIN)
                self.document_bytes(STDIN, stdin, scanned=False)
            return
        try:
            found = find.find(path)
        except InvalidSpecs as error:
            self.problems.extend(error.problems)
            return
        for file in found:
            self.file(file.shown, scanned=file.scanned)

    def file(self, path: str, *, scanned: bool, listed: bool = False) -> None:
        """Load one file, unless it was loaded before. `listed` when an orchestration file names it."""
        known = find.identity(path)
        if known in self._read:
            return
        self._read.add(known)
        try:
            data = find.read(path, regular=scanned or listed)
        except InvalidSpecs as error:
            self.problems.extend(error.problems)
            return
        self.document_bytes(path, data, scanned=scanned, listed=listed)

    def document_bytes(self, path: str, data: bytes, *, scanned: bool, listed: bool = False) -> None:
        """Load the documents of one file."""
        findings = Findings(path, self.strict)
        digest = hashlib.sha256(data).hexdigest()
        trees: list[Node] = []
        try:
            trees = documents(guard.decode(path, data), findings, guard.Meter(path))
        except InvalidSpecs as error:
            findings.problems.extend(error.problems)
            findings.errors += len(error.problems)
        later: list[tuple[str, Place]] = []
        if not findings.errors:
            if not trees and not scanned:
                findings.error((0, 0), "the file is empty", hint="begin a spec with: toka spec new NAME", code="not_a_spec")
            for tree in trees:
                later.extend(self._document(tree, digest, findings, scanned=scanned, listed=listed))
        self.problems.extend(findings.problems)
        self.notes.extend(findings.notes)
        for entry, place in later:
            self._entry(path, entry, place)

    def _document(self, tree: Node, digest: str, findings: Findings, *, scanned: bool, listed: bool) -> list[tuple[str, Place]]:
        """Load one document; returns the paths that an orchestration file lists, with their places."""
        if not isinstance(tree, Map) or not _looks_like_spec(tree):
            message = "this is not an agent spec"
            if scanned:
                findings.warning(
                    tree.place,
                    f"{message}, so it was left out",
                    hint=f"name it in a {find.IGNORE_FILE} to be rid of this",
                    code="not_a_spec",
                )
            else:
                findings.error(tree.place, message, hint="a spec has `metadata: {name: ...}` and `tasks:`", code="not_a_spec")
            return []
        if "agents" not in tree.entries:
            self._agent(tree, digest, findings)
            return []
        if "tasks" in tree.entries:
            findings.error(
                tree.keys["agents"], "a document is an agent (tasks) or an orchestration file (agents), not both", code="two_kinds"
            )
            return []
        if listed:
            findings.error(tree.keys["agents"], "an orchestration file cannot list another one", code="nested")
            return []
        return self._orchestration(dialect.orchestration(tree, findings), digest, findings)

    def _agent(self, tree: Map, digest: str, findings: Findings) -> None:
        tree = dialect.agent(tree, findings)
        spec = read_agent(tree, findings)
        if spec is not None:
            self.agents.append(LoadedAgent(spec, findings.path, digest, {**places(tree), **_grant_places(tree)}))

    def _orchestration(self, tree: Map, digest: str, findings: Findings) -> list[tuple[str, Place]]:
        if self.orchestration is not None:
            findings.error(
                tree.keys["agents"],
                f"a second orchestration file: {self.orchestration.path} is one already",
                hint="a run has one",
                code="two_orchestrations",
            )
            return []
        orchestration, listed = read_orchestration(tree, findings)
        if orchestration is not None:
            self.orchestration, self.orchestration_places = orchestration, places(tree)
        for node in listed:
            if isinstance(node, Map):
                self._agent(node, digest, findings)
        return [(node.value, node.place) for node in listed if isinstance(node, Text)]

    def _entry(self, path: str, entry: str, place: Place) -> None:
        """Load what an orchestration file lists: a path relative to its own directory."""
        target = str(Path(path).parent / entry) if path != STDIN else entry
        try:
            found = find.find(target)
        except NotFound as error:
            self.problems.append(Problem(path, *place, f"agents: {error.message}", "paths are relative to this file", "not_found"))
            return
        except InvalidSpecs as error:
            self.problems.extend(error.problems)
            return
        for file in found:
            self.file(file.shown, scanned=file.scanned, listed=True)

    def check_names(self) -> None:
        """Report names that two agents have."""
        first: dict[str, LoadedAgent] = {}
        for agent in self.agents:
            known = first.setdefault(agent.name, agent)
            if known is not agent:
                line, column = known.where("metadata.name")
                where = agent.where("metadata.name")
                message = f"two agents are named '{agent.name}': here and at {known.path}:{line}:{column}"
                self.problems.append(Problem(agent.path, *where, message, "a name is unique in a run", "duplicate_name"))


def _grant_places(tree: Map) -> dict[str, Place]:
    """Return the place of every grant by its name, `security.grants.NAME`: the list may name one twice."""
    security = tree.entries.get("security")
    listed = security.entries.get("capabilities_required") if isinstance(security, Map) else None
    found: dict[str, Place] = {}
    for item in listed.items if isinstance(listed, Seq) else ():
        for name in item.entries if isinstance(item, Map) else (item.value,) if isinstance(item, Text) else ():
            found.setdefault(f"security.grants.{name}", item.place)
    return found


def _looks_like_spec(tree: Map) -> bool:
    """Return whether a document means to be a spec: Kubernetes manifests have metadata, Taskfiles have tasks, and neither is one."""
    keys = tree.entries.keys()
    if "apiVersion" in keys and "kind" in keys:
        return False
    return "metadata" in keys or "agents" in keys or ("tasks" in keys and "version" not in keys)


def _loader_class() -> Any:
    """Return libyaml's loader, or the one in Python, which is some ten times slower, where PyYAML was built without libyaml."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def documents(text: str, findings: Findings, meter: guard.Meter, *, loader_class: Any = None) -> list[Node]:
    """Return the tree of every document in a text that is not empty.

    Raises InvalidSpecs when the text is not YAML or holds too much; smaller mistakes go to the findings.
    """
    loader: Any = None
    try:
        loader = (loader_class or _loader_class())(text)
        return _built(loader, text, findings, meter)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, findings.path) from None
    finally:
        if loader is not None:
            loader.dispose()


def _built(loader: Any, text: str, findings: Findings, meter: guard.Meter) -> list[Node]:
    """Feed a parser's events to builders, one a document."""
    trees: list[Node] = []
    lines: list[str] | None = None
    count = 0
    builder = Builder(findings, meter)
    while True:
        event: Any = loader.get_event()
        mark = event.start_mark
        place = (mark.line + 1, mark.column + 1)
        kind = type(event)
        if kind is yaml.ScalarEvent:
            plain = event.implicit[0] and event.tag is None and not event.style
            if not event.style and event.end_mark.line > mark.line:
                lines = lines if lines is not None else lines_of(text)
                tab = tab_in_lines(lines, mark.line, event.end_mark.line)
                if tab is not None:
                    findings.error((tab + 1, lines[tab].index("\t") + 1), TAB[0], hint=TAB[1], code="tab")
            builder.scalar(event.value, place, plain=plain, tag=event.tag, anchor=event.anchor)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            builder.begin(place, is_map=kind is yaml.MappingStartEvent, tag=event.tag, anchor=event.anchor)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            builder.end()
        elif kind is yaml.AliasEvent:
            builder.alias(event.anchor, place)
        elif kind is yaml.DocumentStartEvent:
            count += 1
            meter.document(count, place)
            builder = Builder(findings, meter)
        elif kind is yaml.DocumentEndEvent:
            root = builder.root
            if root is not None and not is_null(root):
                trees.append(root)
        elif kind is yaml.StreamEndEvent:
            return trees


def _syntax_error(error: yaml.YAMLError, text: str, path: str) -> InvalidSpecs:
    """Return what a parser complained about, in toka's words."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "")
    context = str(getattr(error, "context", None) or "")
    mark: Any = getattr(error, "problem_mark", None)
    if "quoted scalar" in context and getattr(error, "context_mark", None) is not None:
        # Where the quote opens says more than where the file ends.
        mark = getattr(error, "context_mark", None) if "end of" in problem or "document" in problem else mark
    if mark is None:
        return guard.refusal(path, (1, 1), explained(problem, context, "")[0], code="syntax")
    lines = lines_of(text)
    line_text = lines[mark.line] if mark.line < len(lines) else ""
    message, hint = explained(problem, context, line_text)
    return guard.refusal(path, (mark.line + 1, mark.column + 1), message, hint=hint, code="syntax")
