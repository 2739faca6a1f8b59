"""How long a sweep that is under way will still take, and what early stopping has saved it so far."""

from ctxtune.config import SweepConfig
from ctxtune.tuning import stages
from ctxtune.tuning.estimates import mean_share, seconds_of_work, work_of
from ctxtune.tuning.race import Round, new_runs
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.spending import Batch, makespan

TRUSTED = 4
"""So many trials' worth is what is expected of the scheduler, beside the trials that have ended."""


def hours_left(config: SweepConfig, journal: Journal, places: int, setup: float) -> float | None:
    """Hours of wall time until the sweep ends, in what is left of its budget at most; None: no run has reported yet.

    Trials to come train as long as those that have ended did on average; a trial at work goes on as those did that got as
    far as it is.

    Args:
        places: runs that go on side by side.
        setup: seconds of a run that its reports do not tell of.
    """
    seconds = seconds_of_work(config, journal.runs.values())
    if seconds is None:
        return None
    batches: list[Batch] = []
    for stage, shares in (
        ("search", _search(config, journal)),
        ("selection", _rest(journal, "selection", _selection_runs(config, journal))),
        ("confirmation", _rest(journal, "confirmation", _confirmation_runs(config, journal))),
    ):
        work = work_of(config, stage) * seconds
        batches.append([share * work + setup for share in shares])
    hours = sum(makespan(batch, places) for batch in batches) / 3600
    limit = config.search.budget.hours
    return hours if limit is None else min(hours, max(0.0, limit - journal.decisions.hours_spent))


def share_saved(config: SweepConfig, journal: Journal) -> float:
    """The share of the epochs of the trials that have ended which early stopping has saved."""
    epochs = _ended_epochs(journal)
    return 1 - sum(epochs) / (len(epochs) * config.search_epochs) if epochs else 0.0


def _ended_epochs(journal: Journal) -> list[int]:
    return [run.epoch for run in journal.stage("search") if run.state in ("completed", "pruned")]


def _search(config: SweepConfig, journal: Journal) -> list[float]:
    """The share of a whole trial that each trial still takes: those at work, then those to come."""
    if journal.decisions.search_ended:
        return []
    trials, ended, whole = journal.stage("search"), _ended_epochs(journal), config.search_epochs
    running = []
    for run in trials:
        if run.state == "running":
            as_far = [epochs for epochs in ended if epochs >= run.epoch] or [whole]
            running.append((sum(as_far) / len(as_far) - run.epoch) / whole)
    mean = (TRUSTED * mean_share(config) + sum(ended) / whole) / (TRUSTED + len(ended))
    return running + [mean] * max(0, config.search.trials - len(trials))


def _rest(journal: Journal, stage: str, count: int) -> list[float]:
    """What is left of each of so many runs of a stage that all go to their end."""
    begun = [run.epoch / run.spec.trial.schedule.epochs for run in journal.stage(stage) if run.state == "running"]
    ended = sum(run.state != "running" for run in journal.stage(stage))
    return [1 - done for done in begun] + [1.0] * max(0, count - ended - len(begun))


def _selection_runs(config: SweepConfig, journal: Journal) -> int:
    plan = journal.decisions.selection
    if config.select is None or journal.decisions.chosen is not None:
        return 0
    if plan is not None:
        return sum(new_runs([Round(*each) for each in plan.rounds]))
    return min(stages.arm_count(config), config.search.trials) * len(stages.blocks(config))


def _confirmation_runs(config: SweepConfig, journal: Journal) -> int:
    if config.confirm is None:
        return 0
    plan, chosen = journal.decisions.confirmation, journal.decisions.chosen
    arms = stages.confirmed_arms(config, journal, chosen) if chosen else ["", *config.confirm.also]
    return (plan.seeds if plan else config.confirm.seeds) * len(arms)
