"""Run specs and their records for tests that need no particular configuration."""

from functools import cache
from pathlib import Path
from typing import Any

from ctxtune.config import SweepConfig, load_search_space
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.run_spec import RunSpec


@cache
def _quickstart() -> SweepConfig:
    return load_search_space(Path(__file__).resolve().parents[2] / "search_spaces/quickstart.yaml")


def run_spec(key: str, stage: str = "search", **fields: Any) -> RunSpec:
    """The spec of a run of the quickstart; `fields` replace any of its own."""
    space = _quickstart()
    known = {
        "key": key, "stage": stage, "arm": key, "point": {}, "trial": space.trial, "validation": space.validation,
        "folds": space.validation.use, "seed_index": 0, "seed": 0,
    }  # fmt: skip
    return RunSpec.model_validate(known | fields)


def run_record(key: str, state: str = "running", **fields: Any) -> RunRecord:
    """The record of such a run, without reports."""
    record = RunRecord(run_spec(key, **fields))
    record.state = state
    return record
