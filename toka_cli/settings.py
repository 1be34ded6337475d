"""Settings from layers: flag > TOKA_* > LLM_* > the project's toka.toml > the user's config > built in, each value with where it came from.

Texts, numbers and two file paths come in, frozen models and origins go out. A project's file can only narrow: it sets no address, no key,
does not switch isolation off and does not raise a limit that the user set. Keys never become values here: they are only "set" or "not set".
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict

from toka_cli import units
from toka_cli.errors import InvalidSpecs, Problem
from toka_cli.parsers import duration_or_zero, file_text, flag, grants, names, one_of, place_in, prices, text_line, url, whole

BUILT_IN: Final = "built in"
FLAG: Final = "flag"
STRICTNESS: Final = ("record", "pause", "stop")
"""What may follow a threat, the mildest first: a line in the record, a pause of the agent, its end."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProcessSettings(_Group):
    """How agents' processes are started and stopped."""

    max_concurrent_processes: int = 10
    spawn_timeout_s: float = 30.0
    shutdown_grace_period_s: float = 10.0
    enable_isolation: bool = True
    start_method: Literal["auto", "forkserver", "fresh"] = "auto"
    limits_by: Literal["auto", "polling"] = "auto"
    walls: Literal["auto", "full", "standard"] = "auto"


class ResourceSettings(_Group):
    """Limits for an agent that sets none itself. `cpu_share` 1.0 is one core."""

    max_memory_bytes: int = 2 * 1024**3
    cpu_share: float = 0.8
    max_task_duration_s: float = 300.0
    max_tool_calls_per_task: int = 50


class McpSettings(_Group):
    """How MCP servers are spoken to; `protocol_version` None negotiates."""

    protocol_version: str | None = None
    request_timeout_s: float = 30.0


class MonitoringSettings(_Group):
    """How agents are watched. `progress_timeout_s` None: an agent may be busy with one thing for as long as its other limits allow."""

    health_check_interval_s: float = 10.0
    heartbeat_timeout_s: float = 30.0
    progress_timeout_s: float | None = None


class RecoverySettings(_Group):
    """What happens after an agent's process died."""

    enable_auto_restart: bool = True
    max_restart_attempts: int = 3
    enable_graceful_degradation: bool = True


class LlmSettings(_Group):
    """Which model is asked, and how often: `rate_limit` is requests a minute, `tokens_per_minute` as it says (None: not limited).

    `cache` keeps replies and uses them for requests that are the same word for word. `prices` are (input, output, cached input) in USD per token by model.
    """

    provider: str | None = None
    model: str | None = None
    rate_limit: int = 60
    tokens_per_minute: int | None = None
    timeout_s: float = 30.0
    debug: bool = False
    base_url: str | None = None
    cache: bool = False
    prices: dict[str, tuple[float, float, float | None]] = {}


class PolicySettings(_Group):
    """What agents may be granted at most: a preset, powers more (`allow`, each with what it is narrowed to) and powers less (`deny`).

    `on_threat` is what follows a sign that an agent does what nobody asked it to. `source` says in words who set this.
    """

    preset: Literal["sandboxed", "restricted", "privileged"] = "privileged"
    allow: tuple[tuple[str, tuple[str, ...]], ...] = ()
    deny: tuple[str, ...] = ()
    on_threat: Literal["pause", "stop", "record"] = "pause"
    source: str = BUILT_IN


class Settings(_Group):
    """Everything that can be set, by group. `project_policy` is what a project's file narrows the user's policy to, if it does."""

    process: ProcessSettings = ProcessSettings()
    resources: ResourceSettings = ResourceSettings()
    mcp: McpSettings = McpSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    recovery: RecoverySettings = RecoverySettings()
    llm: LlmSettings = LlmSettings()
    policy: PolicySettings = PolicySettings()
    project_policy: PolicySettings | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    """One setting: where it stands in a file, which field it fills, how it is read, what a project's file may do with it."""

    group: str
    key: str
    field: str
    parse: Callable[[object], Any]
    project: Literal["free", "not above the user's", "never", "only on", "narrows"] = "free"
    alias: str | None = None

    @property
    def name(self) -> str:
        """The name in origins and flags."""
        return f"{self.group}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"TOKA_{self.group}_{self.key}".upper()


_KEYS: Final[tuple[_Key, ...]] = (
    _Key("process", "max_concurrent_processes", "max_concurrent_processes", whole(1, 10_000), "not above the user's"),
    _Key("process", "spawn_timeout", "spawn_timeout_s", units.parse_duration),
    _Key("process", "shutdown_grace_period", "shutdown_grace_period_s", duration_or_zero),
    _Key("process", "enable_isolation", "enable_isolation", flag, "only on"),
    _Key("process", "start_method", "start_method", one_of("auto", "forkserver", "fresh")),
    _Key("process", "limits_by", "limits_by", one_of("auto", "polling")),
    _Key("process", "walls", "walls", one_of("auto", "full", "standard"), "never"),
    _Key("resources", "max_memory", "max_memory_bytes", units.parse_bytes, "not above the user's"),
    _Key("resources", "cpu_limit", "cpu_share", units.parse_share, "not above the user's"),
    _Key("resources", "max_task_duration", "max_task_duration_s", units.parse_duration, "not above the user's"),
    _Key("resources", "max_tool_calls_per_task", "max_tool_calls_per_task", whole(0, 10**9), "not above the user's"),
    _Key("mcp", "protocol_version", "protocol_version", text_line),
    _Key("mcp", "request_timeout", "request_timeout_s", units.parse_duration),
    _Key("monitoring", "health_check_interval", "health_check_interval_s", units.parse_duration),
    _Key("monitoring", "heartbeat_timeout", "heartbeat_timeout_s", units.parse_duration),
    _Key("monitoring", "progress_timeout", "progress_timeout_s", units.parse_duration),
    _Key("recovery", "enable_auto_restart", "enable_auto_restart", flag),
    _Key("recovery", "max_restart_attempts", "max_restart_attempts", whole(0, 100)),
    _Key("recovery", "enable_graceful_degradation", "enable_graceful_degradation", flag),
    _Key("llm", "provider", "provider", text_line, alias="LLM_PROVIDER"),
    _Key("llm", "model", "model", text_line, alias="LLM_MODEL"),
    _Key("llm", "rate_limit", "rate_limit", whole(1, 1_000_000), "not above the user's", alias="LLM_RATE_LIMIT"),
    _Key("llm", "tokens_per_minute", "tokens_per_minute", whole(1, 10**9), "not above the user's"),
    _Key("llm", "timeout", "timeout_s", units.parse_duration, alias="LLM_TIMEOUT"),
    _Key("llm", "debug", "debug", flag, alias="LLM_DEBUG"),
    _Key("llm", "base_url", "base_url", url, "never", alias="LLM_BASE_URL"),
    _Key("llm", "cache", "cache", flag),
    _Key("llm", "prices", "prices", prices, "never"),
    _Key("policy", "preset", "preset", one_of("sandboxed", "restricted", "privileged"), "narrows"),
    _Key("policy", "allow", "allow", grants, "narrows"),
    _Key("policy", "deny", "deny", names, "narrows"),
    _Key("policy", "on_threat", "on_threat", one_of(*STRICTNESS), "narrows"),
)
_BY_NAME: Final = {key.name: key for key in _KEYS}
_GROUPS: Final = tuple(dict.fromkeys(key.group for key in _KEYS))
_POLICY: Final = ("policy.preset", "policy.allow", "policy.deny")
_SECRET: Final = re.compile(r"(?:^|_)(?:api_?keys?|keys?|secrets?|tokens?|passwords?|credentials?)$", re.IGNORECASE | re.ASCII)
_PROVIDER_VARIABLES: Final = (
    "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "AZURE_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY",
)  # fmt: skip


def load_settings(
    flags: Mapping[str, object], env: Mapping[str, str], project_file: Path | None, user_file: Path | None
) -> tuple[Settings, dict[str, str]]:
    """Return the settings and, by `group.key`, where each came from: `flag`, a variable's name, a file's path, or `built in`.

    `flags` are by `group.key` in the spelling of toka.toml; None means "not given". An empty variable counts as not set. Raises InvalidSpecs
    with every value that cannot be read or is not allowed where it stands.
    """
    problems: list[Problem] = []
    user = _file_layer(user_file, problems, project=False)
    same = project_file is not None and user_file is not None and project_file.absolute() == user_file.absolute()
    project = {} if same else _file_layer(project_file, problems, project=True)
    for name, (value, _) in list(project.items()):
        # A repository's file may ask for less than its user allows, not for more.
        if _BY_NAME[name].project == "not above the user's" and name in user and value > user[name][0]:
            del project[name]
    narrowing = {name: project.pop(name) for name in list(project) if _BY_NAME[name].project == "narrows"}
    layers = (
        _environment(env, problems, lambda key: key.alias),
        _environment(env, problems, lambda key: key.variable),
        _flags(flags, problems),
    )
    if problems:
        raise InvalidSpecs(problems)
    chosen: dict[str, tuple[Any, str]] = {**user, **project}
    for layer in layers:
        chosen.update(layer)
    threat = _stricter(chosen.get("policy.on_threat"), narrowing.pop("policy.on_threat", None))
    if threat is not None:
        chosen["policy.on_threat"] = threat
    fields: dict[str, Any] = {group: {} for group in _GROUPS}
    for name, (value, _) in chosen.items():
        fields[_BY_NAME[name].group][_BY_NAME[name].field] = value
    fields["policy"]["source"] = " and ".join(dict.fromkeys(chosen[name][1] for name in _POLICY if name in chosen)) or BUILT_IN
    if narrowing:
        fields["project_policy"] = {_BY_NAME[name].field: value for name, (value, _) in narrowing.items()} | {"source": str(project_file)}
    origins = {key.name: chosen[key.name][1] if key.name in chosen else BUILT_IN for key in _KEYS}
    return Settings.model_validate(fields), origins


def _stricter(one: tuple[Any, str] | None, other: tuple[Any, str] | None) -> tuple[Any, str] | None:
    """Return the project's answer to a threat where it is the stricter one, else the user's."""
    default = (PolicySettings().on_threat, BUILT_IN)
    return other if other is not None and STRICTNESS.index(other[0]) > STRICTNESS.index((one or default)[0]) else one


def describe(settings: Settings, origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (name, value for people, origin) of every setting, in the order of the documentation. A password in an address is not shown."""
    rows = [(key.name, _shown(key, getattr(getattr(settings, key.group), key.field)), origins.get(key.name, BUILT_IN)) for key in _KEYS]
    narrowing = settings.project_policy
    if narrowing is not None:
        said = [key for key in _KEYS if key.name in _POLICY and key.field in narrowing.model_fields_set]
        rows += [(f"{key.name} (narrows)", _shown(key, getattr(narrowing, key.field)), narrowing.source) for key in said]
    return rows


def key_status(env: Mapping[str, str]) -> dict[str, str]:
    """Return "set" or "not set" for the variables that hold providers' keys; never a value."""
    return {name: "set" if env.get(name) else "not set" for name in _PROVIDER_VARIABLES}


def _shown(key: _Key, value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        shown = (each if isinstance(each, str) else each[0] + (f"={','.join(each[1])}" if each[1] else "") for each in value)
        return ", ".join(shown) or "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if key.field.endswith("_s") and isinstance(value, float):
        return units.format_duration(value)
    if key.field.endswith("_bytes") and isinstance(value, int):
        return units.format_bytes(value)
    if key.field == "cpu_share" and isinstance(value, float):
        return f"{value * 100:g}%"
    if key.field == "base_url" and isinstance(value, str):
        parts = urlsplit(value)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
    return str(value)


def _flags(flags: Mapping[str, object], problems: list[Problem]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for name, raw in flags.items():
        if raw is None:
            continue
        try:
            found[name] = (_BY_NAME[name].parse(raw), FLAG)
        except ValueError as error:
            problems.append(Problem("command line", 0, 0, f"{name}: {error}", code="setting"))
    return found


def _environment(env: Mapping[str, str], problems: list[Problem], named: Callable[[_Key], str | None]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for key in _KEYS:
        variable = named(key)
        raw = env.get(variable) if variable else None
        if not variable or not raw:
            continue
        try:
            found[key.name] = (key.parse(raw), variable)
        except ValueError as error:
            problems.append(Problem("environment", 0, 0, f"{variable}: {error}", f"unset {variable}, or correct it", "setting"))
    return found


def _file_layer(path: Path | None, problems: list[Problem], *, project: bool) -> dict[str, tuple[Any, str]]:
    """Return what a toka.toml sets. A file that is not there sets nothing."""
    text = file_text(path, problems)
    if path is None or text is None:
        return {}
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        said_at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line, column = (int(said_at[1]), int(said_at[2])) if said_at else (0, 0)
        said = re.sub(r"\s*\(at .*\)$", "", str(error)) if isinstance(error, ValueError) else "nested too deep"
        problems.append(Problem(str(path), line, column, f"not TOML: {said[:200]}", code="syntax"))
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for group, content in document.items():
        if group not in _GROUPS or not isinstance(content, dict):
            hint = _nearest(group, _GROUPS) or f"groups: {', '.join(f'[{name}]' for name in _GROUPS)}"
            line, column = place_in(text, group, None)
            problems.append(Problem(str(path), line, column, f"unknown group [{group[:60]}]", hint, "unknown_key"))
            continue
        for name, raw in content.items():
            key = _BY_NAME.get(f"{group}.{name}")
            line, column = place_in(text, group, name)
            refused = _unknown(group, name) if key is None else _refused(key, raw, project=project)
            if refused is not None:
                problems.append(Problem(str(path), line, column, refused[0], refused[1], refused[2]))
            if key is None or refused is not None:
                continue
            try:
                found[key.name] = (key.parse(raw), str(path))
            except ValueError as error:
                problems.append(Problem(str(path), line, column, f"{key.name}: {error}", code="setting"))
    return found


def _unknown(group: str, name: str) -> tuple[str, str, str]:
    """Return (message, hint, code) for a key that is none; its value is never shown, it may be a secret."""
    shown = f"{group}.{name[:60]}"
    if _SECRET.search(name):
        return (
            f"{shown}: keys are never read from files",
            "set the provider's environment variable, such as ANTHROPIC_API_KEY",
            "not_allowed",
        )
    names = [known.key for known in _KEYS if known.group == group]
    return f"unknown key {shown}", _nearest(name, names) or f"known: {', '.join(names)}", "unknown_key"


def _refused(key: _Key, raw: object, *, project: bool) -> tuple[str, str, str] | None:
    """Return (message, hint, code) for a setting that a project's file may not make, or None."""
    if project and key.project == "never":
        return (
            f"{key.name} cannot be set by a project's file",
            "set it in your own config, or with " + (key.alias or key.variable),
            "not_allowed",
        )
    if project and key.project == "only on" and raw is not True:
        return (
            f"{key.name} cannot be switched off by a project's file",
            "it is switched off in your own config, or not at all",
            "not_allowed",
        )
    return None


def _nearest(word: str, known: tuple[str, ...] | list[str]) -> str | None:
    close = difflib.get_close_matches(word[:60], known, n=1, cutoff=0.7)
    return f"did you mean '{close[0]}'?" if close else None
