"""Statistics in the Prometheus text format (version 0.0.4): one gauge or counter a line, what is not known is left out. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from toka_cli.state.metrics import Stats

# Counted over all recorded runs; everything else can go down.
COUNTERS: Final = frozenset(
    {"agents_spawned", "cpu_time_s", "model_turns", "model_requests", "model_input_tokens", "model_output_tokens", "model_cost_usd", "model_unsettled_usd"}
)
# Prometheus spells units out.
NAMES: Final = {
    "cpu_time_s": "cpu_seconds_total",
    "agent_duration_s": "agent_duration_mean_seconds",
    "task_duration_s": "task_duration_mean_seconds",
    "uptime_s": "uptime_seconds",
    "agents_spawned": "agents_spawned_total",
    "success_rate": "success_ratio",
    "model_turns": "model_turns_total",
    "model_requests": "model_requests_total",
    "model_input_tokens": "model_input_tokens_total",
    "model_output_tokens": "model_output_tokens_total",
    "model_cost_usd": "model_cost_usd_total",
    "model_unsettled_usd": "model_unsettled_usd_total",
}


def prometheus_text(stats: Stats) -> str:
    """The exposition text, with a newline at its end."""
    lines: list[str] = []
    for field, value in msgspec.structs.asdict(stats).items():
        name = f"toka_{NAMES.get(field, field)}"
        kind = "counter" if field in COUNTERS else "gauge"
        if isinstance(value, dict):
            lines.append(f"# TYPE {name} {kind}")
            lines += [f'{name}{{state="{state}"}} {count}' for state, count in sorted(value.items())]
        elif value is not None:
            lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
