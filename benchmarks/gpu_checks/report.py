"""What a section finds: written down at once, line by line, so that a section that dies keeps what it had."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Scale:
    """How large everything is: as on a GPU, or tiny, for a trial on a CPU.

    `folder`: for pictures and caches, shared by the sections. `data`: where real data sets lie, if there are any.
    """

    tiny: bool
    device: torch.device
    folder: Path
    data: Path | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether there is a CUDA device."""
        return self.device.type == "cuda"

    def pick(self, full: Value, tiny: Value) -> Value:
        """One of the two."""
        return tiny if self.tiny else full


class Report:
    """Rows of tables and checks against goals, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def row(self, table: str, **values: Any) -> None:
        """A row of a table; the columns are the names."""
        self._write({"table": table, "row": values})

    def check(self, what: str, found: float | bool, *, least: float | None = None, most: float | None = None) -> None:
        """Whether a figure lies within its goal; True and False where it is a plain question."""
        if isinstance(found, bool):
            met, goal = found, "yes"
        else:
            met = (least is None or found >= least) and (most is None or found <= most)
            goal = " ".join(f"{sign} {bound:g}" for sign, bound in ((">=", least), ("<=", most)) if bound is not None)
        self._write({"check": what, "found": found, "goal": goal, "met": bool(met)})

    def _write(self, line: dict[str, Any]) -> None:
        line = {"seconds": round(time.monotonic(), 1)} | line
        with self.path.open("a") as file:
            file.write(json.dumps(line, default=str) + "\n")


def collect(path: Path) -> dict[str, Any]:
    """All that a section wrote: its tables by title, and its checks."""
    tables: dict[str, list[dict[str, Any]]] = {}
    checks: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the section was ended in the middle of a line
            continue
        if "table" in line:
            tables.setdefault(line["table"], []).append(line["row"])
        else:
            checks.append({key: line[key] for key in ("check", "found", "goal", "met")})
    return {"tables": tables, "checks": checks}


def lines_of(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table as text, its columns as wide as they need to be."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return [f"  {title}", *("    " + "  ".join(map(str.rjust, line, widths)) for line in cells)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
