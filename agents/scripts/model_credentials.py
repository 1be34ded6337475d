"""The model-credentials workstream: proves that no key reaches a cell, and writes down which variables each provider needs.

    model_credentials.py scrubbed|guide

It cannot say which keys you have: an agent never sees them, and that is what it shows. `toka runtime config` in your terminal says it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

from report import Report, confinement, toka

from toka_cli.settings import key_status

NAME = "model-credentials"
GUIDE = Path("reports") / NAME / "guide.md"
PROVIDERS = {
    "ANTHROPIC_API_KEY": ("Anthropic", "anthropic/...", ""),
    "OPENAI_API_KEY": ("OpenAI, and servers that speak its protocol", "openai/...", "LLM_BASE_URL for a server of your own"),
    "AZURE_API_KEY": ("Azure OpenAI", "azure/...", "AZURE_API_BASE and AZURE_API_VERSION"),
    "GEMINI_API_KEY": ("Google Gemini", "gemini/...", ""),
    "MISTRAL_API_KEY": ("Mistral", "mistral/...", ""),
    "GROQ_API_KEY": ("Groq", "groq/...", ""),
    "OPENROUTER_API_KEY": ("OpenRouter", "openrouter/...", ""),
}
# Prints what a process of a cell, and each process above it, was started with; and what other programs of this user it could read.
LOOK = """\
import json, os
def environ(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
canary = CANARY
own = sorted(name for name, value in os.environ.items() if canary in value or name.endswith("_API_KEY"))
print(json.dumps({"own": own, "readable": sum(canary in environ(pid) for pid in os.listdir("/proc") if pid.isdigit()) if os.path.isdir("/proc") else None}))
"""


def scrubbed() -> int:
    report = Report(NAME, "scrubbed", "No key reaches a cell")
    status = key_status(os.environ)
    report.check("this agent has no provider's key, whatever the terminal has", [name for name, said in status.items() if said != "not set"])
    report.check("toka in this cell finds none either", configured())
    # A key that is none, given to a toka of our own: what do its agents see of it?
    canary = "canary-" + os.urandom(12).hex()
    with tempfile.TemporaryDirectory() as base:
        spec, workdir = Path(base) / "look.yaml", Path(base) / "work"
        workdir.mkdir()
        source = json.dumps(LOOK.replace("CANARY", '"-".join(' + repr(canary.split("-")) + ")"))
        spec.write_text(f"metadata: {{name: look}}\ntasks:\n  default:\n    - {{id: look, code: {{python: {source}}}}}\n", encoding="utf-8")
        env = dict.fromkeys(status, canary) | {"MY_SECRET_TOKEN": canary, "TOKA_STATE_DIR": str(Path(base) / "state")}
        walls = confinement(report)
        ended = toka("orchestrate", str(spec), "--workdir", str(workdir), "-o", "json", *walls, env=env)
        kept = [path.relative_to(base).as_posix() for path in Path(base).rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
        try:
            seen = json.loads(json.loads(ended.stdout)["data"]["run"]["agents"][0]["tasks"][0]["output"])
        except (ValueError, LookupError, TypeError):
            seen = {"own": [f"could not be asked: {ended.stderr[-500:]}"], "readable": None}
    report.check("an agent of a toka that has all the keys sees none of them in its environment", seen["own"])
    report.check("no key is written into the state folder", kept)
    report.check("no key is printed", [] if canary not in ended.stdout + ended.stderr else ["it is"])
    if seen["readable"] is None:
        report.leave_out("the environment of other processes: there is no /proc")
    elif not walls:
        report.check("nor in that of any other process, toka itself among them", [f"{seen['readable']} can be read"] if seen["readable"] else [])
    report.data["readable_through_proc"] = seen["readable"]
    return report.finish()


def configured() -> list[str]:
    """Keys that `toka runtime config` calls set, from inside this cell."""
    shown = json.loads(toka("runtime", "config", "-o", "json").stdout)["data"]["settings"]
    return [row["name"] for row in shown if row["name"].endswith("_API_KEY") and row["value"] != "not set"]


def guide() -> int:
    report = Report(NAME, "credentials", "Which variables each provider needs")
    known = set(key_status({}))
    report.check("every provider that toka knows is in the guide", sorted(known - set(PROVIDERS)))
    report.check("the guide names no other", sorted(set(PROVIDERS) - known))
    report.check("a key is told by being set, never by its value", [] if key_status({"OPENAI_API_KEY": "x" * 9})["OPENAI_API_KEY"] == "set" else ["it is not"])
    lines = ["# Keys of model providers", "", "| provider | model name | key | also |", "| --- | --- | --- | --- |"]
    lines += [f"| {who} | `{model}` | `{variable}` | {also or '-'} |" for variable, (who, model, also) in PROVIDERS.items()]
    lines += [
        "| Ollama on this machine | `ollama_chat/...` | none | - |",
        "",
        "Set the variable in the terminal that starts toka. It is never a flag, a line of a spec or of toka.toml, and agents do not get it.",
        "What your terminal has: `toka runtime config`. This guide was written inside a cell, where no key exists, so it cannot know.",
    ]
    GUIDE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = GUIDE.read_text(encoding="utf-8")
    report.check("the guide names every variable", [name for name in known if not re.search(rf"`{name}`", text)])
    return report.finish()


if __name__ == "__main__":
    sys.exit({"scrubbed": scrubbed, "guide": guide}[sys.argv[1]]())
