"""What the journal of a sweep comes to."""

from ctxtune.config import SweepConfig
from ctxtune.results.designs import SweepDesign
from ctxtune.results.sweep import SweepResults
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.runs import runs_of


def results_of(config: SweepConfig, journal: Journal, *, ended: bool) -> SweepResults:
    """What a sweep found; ``ended``: no run is to come."""
    return SweepResults(
        design=SweepDesign.model_validate(config.model_dump(mode="json")),
        runs=runs_of(journal),
        ended=ended,
        decided=journal.decisions.chosen,
        planned_seeds=journal.decisions.confirmation.seeds if journal.decisions.confirmation else None,
    )
