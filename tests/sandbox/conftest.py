"""Programs beside the test: whatever becomes a subreaper, lowers its limits or kills its children does so in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def beside(tmp_path):
    """Runs Python code in a fresh process; the JSON it printed last."""

    def run(code, *words, **options):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
            **options,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
