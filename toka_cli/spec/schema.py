"""The JSON Schema (2020-12) of specs and orchestration files, for editors and other programs: every shape that the loader takes.

Kept beside the readers by hand, because it describes what people may write and the models only what comes of it; a test loads and
validates the same files with both.
"""

from __future__ import annotations

from typing import Any, Final

from toka_cli.spec.model import NAME_PATTERN, SERVER_PATTERN, TASK_ID_PATTERN, Priority

SCHEMA_ID: Final = "urn:toka:spec:1"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the schema of one document: an agent or an orchestration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "toka agent spec or orchestration file",
        "oneOf": [{"$ref": "#/$defs/agent"}, {"$ref": "#/$defs/orchestration"}],
        "$defs": _defs(),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _said(description: str, schema: Schema) -> Schema:
    return {"description": description, **schema}


def _object(properties: Schema, *, required: tuple[str, ...] = (), more: bool = True) -> Schema:
    found: Schema = {"type": "object", "properties": properties}
    if required:
        found["required"] = list(required)
    return found if more else {**found, "additionalProperties": False}


def _or_nothing(*schemas: Schema) -> Schema:
    return {"anyOf": [*schemas, {"type": "null"}]}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _word(*words: str) -> Schema:
    """Words in any case, as the loader reads them; the lower-case ones are listed for completion."""
    either = "|".join("".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in word) for word in words)
    return {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": f"^(?:{either})$"}]}


def _defs() -> Schema:
    return {
        "text": {"type": ["string", "number", "boolean"], "description": "read as the text that was written"},
        "texts": _or_nothing(_ref("text"), _list_of(_ref("text"))),
        "flag": {
            "anyOf": [
                {"type": "boolean"},
                {"type": "string", "pattern": "^(?:[Yy][Ee][Ss]|[Nn][Oo]|[Oo][Nn]|[Oo][Ff][Ff]|[Tt]rue|[Ff]alse)$"},
            ]
        },
        **_amounts(),
        "priority": _word(*Priority),
        "agentName": {"anyOf": [{"type": "string", "pattern": f"^{NAME_PATTERN}$"}, {"type": "number"}]},
        "taskId": {"anyOf": [{"type": "string", "pattern": f"^{TASK_ID_PATTERN}$"}, {"type": "number"}]},
        "command": {
            "description": "arguments, or text for sh -c",
            "anyOf": [{"type": "string", "minLength": 1}, {**_list_of(_ref("text")), "minItems": 1}],
        },
        "check": {"anyOf": [_object({"run": _ref("command"), "timeout": _ref("duration")}, required=("run",)), _ref("command")]},
        "named": {
            "description": "names with text: a mapping, a list of one-key mappings, of {name, description} or of names",
            "anyOf": [
                {"type": "null"},
                {"type": "string"},
                {"type": "object", "additionalProperties": _or_nothing(_ref("text"))},
                _list_of(
                    {
                        "anyOf": [
                            {"type": "string"},
                            {"type": "object", "minProperties": 1, "additionalProperties": _or_nothing(_ref("text"))},
                        ]
                    }
                ),
            ],
        },
        "grants": {
            "description": "names, or {name: [what it is narrowed to]}",
            "anyOf": [
                {"type": "null"},
                {"type": "string"},
                _ref("longGrant"),
                _list_of({"anyOf": [{"type": "string", "minLength": 1}, _ref("longGrant")]}),
            ],
        },
        "longGrant": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"anyOf": [_ref("text"), {**_list_of(_ref("text")), "minItems": 1}]},
        },
        "limits": _limits(),
        "llm": _or_nothing({"type": "string"}, _llm()),
        "servers": _or_nothing({"type": "object", "propertyNames": {"pattern": f"^{SERVER_PATTERN}$"}, "additionalProperties": _server()}),
        "task": {"anyOf": [{"type": "string", "minLength": 1}, _task()]},
        "objective": {"anyOf": [{"type": "string", "minLength": 1}, _objective()]},
        "agent": _agent(),
        "orchestration": _orchestration(),
    }


def _amounts() -> Schema:
    """The amounts that `units.py` reads."""
    return {
        "bytes": {
            "description": "bytes, or with B KB MB GB TB (powers of 1024), such as 200MB",
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^\s*[0-9]+(?:\.[0-9]+)?\s*(?:[KkMmGgTt]?[Ii]?[Bb])?\s*$"},
            ],
        },
        "duration": {
            "description": "seconds, or ms s m h d and sums of them, such as 1h30m",
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\s*(?:[0-9]+(?:\.[0-9]+)?|(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d)\s*)+)\s*$"},
            ],
        },
        "share": {
            "description": "75% or 75 is per cent of one core, a bare number up to 4 is cores",
            "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^\s*[0-9]+(?:\.[0-9]+)?\s*%?\s*$"}],
        },
    }


def _limits() -> Schema:
    return _or_nothing(
        _object(
            {
                "max_memory": _ref("bytes"),
                "max_cpu": _ref("share"),
                "timeout": _ref("duration"),
                "max_open_files": {"type": "integer", "minimum": 16},
                "max_processes": {"type": "integer", "minimum": 1},
                "max_output": _ref("bytes"),
                "max_disk_usage": _ref("bytes"),
                "max_tool_calls": {"type": "integer", "minimum": 0},
                "task_timeout": _ref("duration"),
                "max_tokens": {"type": "integer", "minimum": 1},
                "max_cost_usd": {"type": "number", "minimum": 0},
            }
        )
    )


def _llm() -> Schema:
    schema = _object(
        {
            "model": _ref("text"),
            "fallbacks": _ref("texts"),
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "max_output_tokens": {"type": "integer", "minimum": 1},
        }
    )
    # Addresses and keys never come from a spec; `false` marks them in an editor.
    schema["properties"] |= dict.fromkeys(("base_url", "api_base", "api_key", "headers"), False)
    return schema


def _server() -> Schema:
    return {
        **_object(
            {
                "command": {"type": "string"},
                "args": _ref("texts"),
                "env": {"type": "object", "additionalProperties": _or_nothing(_ref("text"))},
                "url": {"type": "string", "pattern": r"^https?://[^\s/]"},
            }
        ),
        "oneOf": [{"required": ["command"]}, {"required": ["url"]}],
    }


def _objective() -> Schema:
    return _object(
        {
            "description": _ref("text"),
            "deliverable": _said("path globs, or free text", _ref("texts")),
            "validation": _said("free text for the prompt, or a check {run: ...} that toka runs", _or_nothing(_ref("text"), _ref("check"))),
        },
        required=("description",),
    )


def _task() -> Schema:
    languages = {name: {"type": "string"} for name in ("python", "javascript", "shell", "js", "node", "py", "python3", "sh", "bash")}
    targets = ("run", "code", "tool", "custom", "agent")
    return {
        **_object(
            {
                "id": _ref("taskId"),
                "description": _said("what to do; without a target it is the prompt", _ref("text")),
                "priority": _ref("priority"),
                "run": _ref("command"),
                "code": {
                    "anyOf": [
                        {**_object(languages, more=False), "minProperties": 1, "maxProperties": 1},
                        {
                            **_object(
                                {"language": {"type": "string"}, "source": {"type": "string"}, "code": {"type": "string"}},
                                required=("language",),
                            )
                        },
                    ]
                },
                "tool": {"type": "string", "minLength": 1},
                "custom": _said("a task that an installed package offers (entry point group toka.tasks)", {"type": "string", "minLength": 1}),
                "args": _or_nothing({"type": "object"}),
                "agent": _ref("agentName"),
                "input": True,
                "timeout": _ref("duration"),
                "retries": {
                    "anyOf": [
                        {"type": "integer", "minimum": 0, "maximum": 100},
                        _object(
                            {
                                "max": {"type": "integer", "minimum": 0, "maximum": 100},
                                "delay": _ref("duration"),
                                "backoff": {"type": "number", "minimum": 1, "maximum": 10},
                            }
                        ),
                    ]
                },
                "depends_on": _ref("texts"),
                "when": {"type": "string", "pattern": f"^{TASK_ID_PATTERN}$"},
                "output_schema": _or_nothing({"type": "object"}),
                "verify": _ref("check"),
                "requires": _ref("texts"),
                "allow_failure": _ref("flag"),
                "on_interrupted": _word("rerun", "fail", "ask"),
            }
        ),
        "anyOf": [{"required": [key]} for key in ("description", *targets)],
        "not": {"anyOf": [{"required": [one, other]} for at, one in enumerate(targets) for other in targets[at + 1 :]]},
    }


def _agent() -> Schema:
    tasks = _list_of(_ref("task"))
    metadata = {"name": _said("unique in a run", _ref("agentName"))} | dict.fromkeys(
        ("version", "created", "workstream", "branch"), _or_nothing(_ref("text"))
    )
    properties: Schema = {
        "metadata": _object(metadata, required=("name",)),
        "spec": _or_nothing(
            _object({"priority": _ref("priority")} | dict.fromkeys(("name", "domain", "description"), _or_nothing(_ref("text"))))
        ),
        "capabilities": _said(
            "skills for the prompt; they grant nothing",
            _or_nothing(_object_of(_ref("texts"), "primary", "secondary"), _list_of(_ref("text"))),
        ),
        "objectives": _or_nothing(_list_of(_ref("objective"))),
        "tasks": {
            "anyOf": [
                {**tasks, "minItems": 1},
                {
                    **_object(
                        {
                            "parallel": {"type": "integer", "minimum": 1, "maximum": 64},
                            "default": _or_nothing(tasks),
                            "conditional": _or_nothing(
                                {
                                    "type": "object",
                                    "propertyNames": {"pattern": f"^{TASK_ID_PATTERN}$"},
                                    "additionalProperties": _or_nothing(tasks),
                                },
                                _list_of({"type": "object", "minProperties": 1, "maxProperties": 1}),
                            ),
                        }
                    ),
                    "anyOf": [{"required": ["default"]}, {"required": ["conditional"]}],
                },
            ]
        },
        "dependencies": _or_nothing(_object_of(_ref("named"), "required", "optional"), _list_of({"type": ["string", "object"]})),
        "security": _or_nothing(
            _object({"sandbox": _ref("flag"), "capabilities_required": _ref("grants"), "resource_limits": _ref("limits")})
        ),
        "llm": _ref("llm"),
        "mcp_servers": _ref("servers"),
        "mcpServers": _ref("servers"),
        "restart": {
            "anyOf": [
                _word("never", "on-failure", "always"),
                _object(
                    {
                        "policy": _word("never", "on-failure", "always"),
                        "max_attempts": {"type": "integer", "minimum": 0, "maximum": 100},
                        "delay": _ref("duration"),
                    }
                ),
            ]
        },
        "workspace": {"anyOf": [_word("shared", "worktree", "copy"), _object({"mode": _word("shared", "worktree", "copy")})]},
        "reporting": _or_nothing(_object({"frequency": _or_nothing(_ref("text")), "channels": _ref("texts"), "metrics": _ref("named")})),
        "behavioral_directives": True,
        "risk_mitigation": True,
        "success_criteria": True,
    }
    return {**_object(properties, required=("metadata", "tasks")), "not": {"required": ["agents"]}}


def _object_of(schema: Schema, *keys: str) -> Schema:
    """Return an object whose named keys all hold the same shape."""
    return _object(dict.fromkeys(keys, schema))


def _orchestration() -> Schema:
    properties: Schema = {
        "name": _ref("text"),
        "description": _ref("text"),
        "agents": {
            "description": "paths (files or directories) relative to this file, or specs",
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [{"type": "string", "minLength": 1}, _ref("agent")]},
        },
        "max_agents": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]},
        "timeout": _ref("duration"),
        "budget": _object({"usd": {"type": "number", "minimum": 0}, "tokens": {"type": "integer", "minimum": 1}}),
        "llm": _ref("llm"),
        "mcp_servers": _ref("servers"),
        "mcpServers": _ref("servers"),
        "limits": _ref("limits"),
        "workdir": {"type": "string"},
        "on_failure": _word("continue", "stop"),
        "capabilities_allowed": _said("the grants that agents of this run can have at most", _ref("grants")),
    }
    return {**_object(properties, required=("agents",)), "not": {"required": ["tasks"]}}
