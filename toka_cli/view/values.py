"""Named values as people read them: `memory_bytes 200 MB, network none`. A mapping of plain values comes in, raw text goes out (whoever shows it cleans it)."""

from __future__ import annotations

from collections.abc import Mapping

from toka_cli.units import format_bytes, format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_NOTHING: Final[tuple[Any, ...]] = (None, "", [], (), {})


def named(values: Mapping[str, Any], *, units: bool = False) -> str:
    """Return the values that say something, each behind its name. With `units`, numbers named `*_bytes`, `*_s` or `*_share` are shown with theirs."""
    return ", ".join(f"{name} {plain(value, name=name * units, units=units)}" for name, value in values.items() if value not in _NOTHING)


def plain(value: Any, *, name: str = "", units: bool = False) -> str:
    """Return one value: yes or no, numbers without needless digits, lists with spaces or semicolons between, mappings in parentheses."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return format_bytes(value)
    if isinstance(value, int | float) and name.endswith("_s"):
        return format_duration(value)
    if isinstance(value, int | float) and name.endswith("_share"):
        return f"{value * 100:.4g}%"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        items = [plain(item, units=units) for item in value]
        return ("; " if any(" " in item for item in items) else " ").join(items)
    if isinstance(value, Mapping):
        return "(" + named(value, units=units) + ")"
    return str(value)
