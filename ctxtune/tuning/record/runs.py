"""The runs of a journal as results see them."""

from ctxtune.results.runs import Run
from ctxtune.tracking import flatten
from ctxtune.tuning.record.journal import Journal, RunRecord


def run_of(record: RunRecord) -> Run:
    """A run with the last value of each of its metrics."""
    spec = record.spec
    metrics: dict[str, float] = {}
    for report in record.reports:
        metrics |= report.metrics
    return Run(
        key=spec.key,
        stage=spec.stage,
        arm=spec.arm,
        state=record.state,
        reason=record.reason,
        seed_index=spec.seed_index,
        folds=tuple(map(str, spec.folds)),
        repeat=int(spec.tags.get("repeat") or 0),
        number=int(spec.tags.get("trial") or 0),
        epoch=record.epoch,
        metrics=metrics,
        settings=flatten(spec.trial.tree()),
    )


def runs_of(journal: Journal) -> tuple[Run, ...]:
    """All runs, in the order in which they began."""
    return tuple(map(run_of, journal.runs.values()))
