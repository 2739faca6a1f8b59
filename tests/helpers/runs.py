"""The runs that a driver would start one after the other, for journals that tests write by hand."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ctxtune.ablation.runs import next_trial as next_cell_trial
from ctxtune.ablation.searches import Searches
from ctxtune.config import Ablation, SweepConfig
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import blocks, candidates, next_trial, selection_specs


class Silent:
    """Tracking that nothing is told."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


def silent_recorder(journal: Journal, metric: str, **options: Any) -> Recorder:
    return Recorder(journal, Silent(), metric=metric, sweep_id="s", **options)  # type: ignore[arg-type]


def trials(space: SweepConfig, journal: Journal, sampler: Sampler) -> Iterator[RunSpec]:
    recorder = silent_recorder(journal, space.search.objective.metric)
    return iter(partial(next_trial, space, recorder, sampler), None)


def cell_trials(ablation: Ablation, journal: Journal, searches: Searches) -> Iterator[RunSpec]:
    recorder = silent_recorder(journal, ablation.compare.metric)
    return iter(partial(next_cell_trial, ablation, recorder, searches), None)


def whole_selection(space: SweepConfig, journal: Journal) -> list[RunSpec]:
    """All candidates on all blocks."""
    return selection_specs(space, journal, candidates(space, journal), len(blocks(space)))
