"""`toka runtime`: one piece of code through the same kernel and cell as agents, and what is known about the installation."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import pytest

from toka_cli.sandbox import probe

RESULT = {
    "ok", "exit_code", "signal", "reason", "output", "stderr", "duration_s", "peak_memory_bytes", "cpu_time_s", "isolation", "artifacts",
}  # fmt: skip


def execute(toka: Any, *words: Any, code: int = 0, stdin: str | None = None) -> dict[str, Any]:
    done = toka("runtime", "exec", *words, "-o", "json", stdin=stdin).expect(code)
    assert done.envelope["exit_code"] == code
    result = done.envelope["data"]["result"]
    assert set(result) >= RESULT
    assert isinstance(result, dict)
    return result


def test_every_target_has_the_same_result(toka: Any) -> None:
    (toka.work / "p.py").write_text("print(6 * 7)")
    (toka.work / "j.js").write_text("console.log(6 * 7)")
    (toka.work / "f.txt").write_text("42\n")
    results = [execute(toka, "--python", "p.py"), execute(toka, "--shell", "echo 42")]
    if shutil.which("node"):
        results.append(execute(toka, "--js", "j.js"))
    for result in results:
        assert (result["ok"], result["exit_code"], result["signal"], result["reason"]) == (True, 0, None, None)
        assert (result["output"], result["stderr"]) == ("42\n", "")
        assert result["duration_s"] > 0
        assert result["cpu_time_s"] > 0
        assert result["peak_memory_bytes"] > 1 << 20
        assert result["isolation"]["level"] == probe.walls().level
    tool = execute(toka, "--tool", "read_file", "path=f.txt", "--grant", "filesystem-read")
    assert tool["ok"]
    assert "42" in tool["output"]
    assert tool["peak_memory_bytes"] is None, "what cannot be known is null"


def test_the_exit_status_is_that_of_the_code(toka: Any) -> None:
    done = toka("runtime", "exec", "--shell", "echo out; echo err >&2; exit 7").expect(7)
    assert done.out == "out\n"
    assert "err\n" in done.err
    assert execute(toka, "--shell", "exit 7", code=7)["reason"] == "exit 7"
    killed = execute(toka, "--shell", "kill -9 $$", code=137)
    assert (killed["exit_code"], killed["signal"], killed["reason"]) == (None, 9, "signal 9")


def test_limits_and_refusals_have_codes(toka: Any) -> None:
    late = execute(toka, "--shell", "sleep 1000", "--timeout", "200ms", code=124)
    assert "exceeded 200ms" in late["reason"]
    denied = execute(toka, "--tool", "read_file", "path=x", code=5)
    assert denied["reason"].startswith("capability_denied: filesystem-read")
    assert execute(toka, "--python", "-", "--memory", "50MB", code=1, stdin="x = bytearray(600 * 1024**2)")["ok"] is False
    toka.nothing_left()


def test_source_comes_from_stdin(toka: Any) -> None:
    assert execute(toka, "--python", "-", stdin="import sys; print('from stdin'); sys.exit(3)", code=3)["output"] == "from stdin\n"


def test_long_output_arrives_whole(toka: Any) -> None:
    done = toka("runtime", "exec", "--shell", "seq 1 30000").expect(0)
    assert done.out == "".join(f"{n}\n" for n in range(1, 30001))


def test_tool_arguments_are_checked(toka: Any) -> None:
    assert toka("runtime", "exec", "--tool", "no_such_tool").code in {2, 3, 4}
    wrong = execute(toka, "--tool", "read_file", "nonsense=1", "--grant", "filesystem-read", code=1)
    assert "nonsense" in wrong["reason"] or "path" in wrong["reason"]
    assert toka("runtime", "exec", "--shell", "true", "k=v").code == 2


def test_config_says_where_values_come_from_and_hides_keys(toka: Any) -> None:
    (toka.work / "toka.toml").write_text("[process]\nspawn_timeout = '7s'\n")
    env = {"TOKA_PROCESS_SHUTDOWN_GRACE_PERIOD": "3s", "LLM_MODEL": "openai/some", "OPENAI_API_KEY": "sk-planted", "LLM_BASE_URL": "http://u:pw@127.0.0.1:1/v1"}
    done = toka("runtime", "config", "-o", "json", env=env).expect(0)
    rows = {row["name"]: (row["value"], row["origin"]) for row in done.envelope["data"]["settings"]}
    assert rows["process.spawn_timeout"][0] == "7s"
    assert rows["process.spawn_timeout"][1].endswith("toka.toml")
    assert rows["process.shutdown_grace_period"] == ("3s", "TOKA_PROCESS_SHUTDOWN_GRACE_PERIOD")
    assert rows["llm.model"] == ("openai/some", "LLM_MODEL")
    assert rows["OPENAI_API_KEY"][0] == "set"
    assert rows["state_dir"] == (str(toka.state), "TOKA_STATE_DIR")
    assert "sk-planted" not in done.out
    assert "pw@" not in done.out
    assert not toka.state.exists()


def test_tools_and_stats(toka: Any) -> None:
    tools = {tool["name"]: tool for tool in toka("runtime", "tools", "-o", "json").expect(0).envelope["data"]["tools"]}
    assert tools["read_file"]["power"] == "filesystem-read"
    assert toka("runtime", "stats").expect(0)
    toka("orchestrate", toka.spec("one", [{"id": "t", "description": "T", "run": "true"}])).expect(0)
    toka("orchestrate", toka.spec("two", [{"id": "t", "description": "T", "run": "false"}])).expect(1)
    stats = toka("runtime", "stats", "-o", "json").expect(0).envelope["data"]["stats"]
    assert "2" in json.dumps(stats)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a tree is known on Linux only")
def test_memory_of_the_largest_process_is_measured(toka: Any) -> None:
    result = execute(toka, "--python", "-", "--memory", "1GB", stdin="x = b'x' * (100 * 1024**2)")
    assert 100 * 1024**2 <= result["peak_memory_bytes"] < 400 * 1024**2
