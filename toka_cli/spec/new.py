"""Writes the text of a new spec from a template. A name comes in, YAML with comments goes out; the file is written by somebody else."""

from __future__ import annotations

from typing import Final

from toka_cli.spec.model import is_agent_name

SCHEMA_FILE: Final = "toka-spec.schema.json"

_HEAD: Final = f"""\
# yaml-language-server: $schema=./{SCHEMA_FILE}
# (the line above helps editors; write that file beside this one with: toka spec schema > {SCHEMA_FILE})
"""

_MINIMAL: Final = """\
metadata:
  name: "@NAME@"
tasks:
  default:
    - description: Say in three sentences what this project is for
security:
  capabilities_required: [filesystem-read]
"""

_COMMAND: Final = """\
metadata:
  name: "@NAME@"
spec:
  description: Runs commands, no model needed
  priority: medium
tasks:
  default:
    - id: list
      description: List the files
      run: [ls, -la]                  # a list of arguments; a text goes to sh -c
    - id: count
      description: Count the lines of all YAML files
      run: "find . -name '*.yaml' -exec cat {} + | wc -l"
      depends_on: [list]
      timeout: 1m
security:
  capabilities_required: [filesystem-read, script-execution]
  resource_limits: {max_memory: 200MB, max_cpu: 50%, timeout: 5m}
"""

_CODE: Final = """\
metadata:
  name: "@NAME@"
spec:
  description: Runs code in interpreters of its own, no model needed
tasks:
  default:
    - id: sum
      description: Add numbers
      code:
        python: |
          print(sum(range(10)))
    - id: greet
      description: Greet from the shell
      code: {shell: "echo hello from $AGENT_NAME"}
      retries: {max: 2, delay: 1s, backoff: 2}
security:
  capabilities_required: [script-execution]
  resource_limits: {max_memory: 200MB, timeout: 5m}
"""

_FULL: Final = """\
metadata:
  name: "@NAME@"                      # unique in a run
  version: v0.1.0                     # free text, recorded
  workstream: examples                # groups agents; by default the name
  # branch: feature/example           # with workspace.mode worktree: its git branch

spec:
  name: An agent that shows every section
  domain: examples
  priority: medium                    # critical | high | medium | low
  description: Checks something and writes a report

capabilities:                         # skills for the prompt; they grant nothing
  primary: [reading, reporting]
  secondary: []

objectives:
  - description: A report exists
    deliverable: reports/**.md        # path globs: recorded with size and sha256
    validation: The report names every problem that was found      # free text for the prompt
  - description: The report is not empty
    validation: {run: [test, -s, reports/@NAME@.md], timeout: 10s}   # a gate: its exit status decides

tasks:
  parallel: 1                         # how many tasks at once
  default:
    - id: collect
      description: Count the files
      priority: high
      run: "mkdir -p reports && find . -type f | wc -l > reports/@NAME@.md"
      timeout: 1m
      verify: {run: [test, -e, reports/@NAME@.md]}
    - id: show
      description: Show the report
      tool: read_file                 # any tool of `toka runtime tools`
      args: {path: reports/@NAME@.md}
      depends_on: [collect]
    - id: compute
      description: Compute something
      code: {python: "print(6 * 7)"}  # python | javascript | shell
      retries: {max: 2, delay: 1s, backoff: 2}
      allow_failure: true
  conditional:
    model:                            # runs only with: --when model
      - id: explain
        description: Explain the report in three sentences         # without a target: a prompt

dependencies:
  required: {}                        # other-agent: why; must succeed first
  optional: {}                        # order only

security:
  sandbox: true
  capabilities_required:              # the grants
    - filesystem-read
    - filesystem-write: [reports/**]
    - script-execution
  resource_limits:                    # of the whole process tree
    max_memory: 200MB
    max_cpu: 75%                      # 100% is one core
    timeout: 10m
    task_timeout: 5m
    max_tool_calls: 50
    max_output: 10MB

llm: {temperature: 0.3, max_output_tokens: 4096}
restart: {policy: on-failure, max_attempts: 3, delay: 5s}
workspace: {mode: shared}             # shared | worktree | copy

reporting:
  frequency: once
  channels: [main-agent]
  metrics:
    files: How many files there are
"""

TEMPLATES: Final[dict[str, str]] = {"minimal": _MINIMAL, "command": _COMMAND, "code": _CODE, "full": _FULL}


def new_spec(name: str, template: str = "command") -> str:
    """Return the text of a new spec that loads without a problem. Raises ValueError for a name no agent can have or an unknown template."""
    if not is_agent_name(name):
        raise ValueError(f"{name[:60]!r} cannot name an agent: a letter or digit, then up to 99 letters, digits, '.', '_' or '-'")
    text = TEMPLATES.get(template)
    if text is None:
        raise ValueError(f"there is no template {template[:60]!r}; there are {', '.join(TEMPLATES)}")
    return _HEAD + text.replace("@NAME@", name)
