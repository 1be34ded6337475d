"""Makes agents/examples/prompt.recording.jsonl anew: the example really run, with `--record`, against a model server on loopback whose replies stand here.

`python -m tests.example_recording` from the root of the checkout, after prompts, tools or the example have changed. In: this tree. Out: the file. No model is
asked, and the recording says so by the name of its model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.llm.server import ModelServer, call, calls

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "agents" / "examples" / "prompt.yaml"
RECORDING = EXAMPLE.with_name("prompt.recording.jsonl")
MODEL = "openai/scripted-demonstration"
SUMMARY = """\
toka runs teams of agents from a terminal, a shell script or a CI step, each of them described in a YAML file.
Every agent is a process of its own behind real walls, and may do what its file grants and nothing else.
Success is proved by commands that toka runs itself, and everything that happened is written down.
"""
# No price is known of a model that does not exist, and the example has a budget in USD.
SETTINGS = f'[llm.prices]\n"{MODEL}" = {{input = 0, output = 0}}\n'
FOUND = "Wrote three sentences to reports/examples/summary.md, taken from the first lines of README.md."
SCRIPT = (
    calls(call("read_file", path="README.md", limit=20), usage=(1900, 30)),
    calls(call("write_file", path="reports/examples/summary.md", content=SUMMARY), usage=(2300, 110)),
    calls(call("finish", status="success", summary=FOUND, evidence=["reports/examples/summary.md"]), usage=(2450, 60)),
)


def record(target: Path) -> None:
    """Run the example in a folder that holds this project's README.md, and write what was said to `target`. Raises CalledProcessError when it fails."""
    with tempfile.TemporaryDirectory() as folder, ModelServer(SCRIPT, models=[MODEL.partition("/")[2]]) as server:
        base = Path(folder)
        (base / "work").mkdir()
        (base / "work" / "README.md").write_bytes((ROOT / "README.md").read_bytes())
        (base / "toka.toml").write_text(SETTINGS, encoding="utf-8")
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(base),
            "PYTHONPATH": str(ROOT),
            "TOKA_STATE_DIR": str(base / "state"),
            "LLM_BASE_URL": server.url,
            "LLM_MODEL": MODEL,
            "OPENAI_API_KEY": "none is needed",
        }
        words = ["--config", str(base / "toka.toml"), "orchestrate", str(EXAMPLE), "--workdir", str(base / "work"), "--record", str(target), "--no-watch"]
        argv = [sys.executable, "-m", "toka_cli", *words]
        subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=120)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        record(Path(made) / RECORDING.name)
        RECORDING.write_bytes((Path(made) / RECORDING.name).read_bytes())
    print(f"written: {RECORDING}")
