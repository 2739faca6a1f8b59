"""The course of a sweep over any executor: search, selection, confirmation. What each is given is settled before it begins.

Every decision stands in the journal before the runs that follow from it: a sweep that was killed repeats it when it goes on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from ctxtune.config import SweepConfig, TrialSettings
from ctxtune.config.sweep import ConfirmSettings
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.results.sweep import select, standings
from ctxtune.text import counted
from ctxtune.training.features_ahead import Side
from ctxtune.tuning import stages
from ctxtune.tuning.budget import Budget
from ctxtune.tuning.callbacks import Watcher, end_stage
from ctxtune.tuning.executor import Executor, StageRuns
from ctxtune.tuning.race import Round, new_runs
from ctxtune.tuning.record.decisions import ConfirmationPlan, SearchEnd, SelectionPlan
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.search.multi_objective import SeveralObjectives
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.search.scheduler import build_scheduler
from ctxtune.tuning.search.warm_start import with_warm_starts
from ctxtune.tuning.spending import LIMITS, raised, revive
from ctxtune.tuning.sweep_results import results_of

SEARCH_ENDED, SELECTION, CHOSEN, CONFIRMATION = "search_ended", "selection", "chosen", "confirmation"
"""Decisions in the journal."""


def run_stages(
    config: SweepConfig,
    recorder: Recorder,
    executor: Executor,
    watcher: Watcher,
    *,
    on_measured: Callable[[float], object] = lambda seconds: None,
    prepare: Callable[[TrialSettings, Side], object] = lambda trial, side: None,
) -> None:
    """Search, select and confirm, or go on where an earlier process was.

    Args:
        on_measured: told once, where there is a budget, how many seconds a full-length run takes.
        prepare: called before the runs of the train classes, and before those that score the test classes.

    Raises:
        ConfigError: a resumed sweep asks for another confirmation than the one that has begun.
        CtxtuneError: no trial came to its last epoch.
        SweepStopped: it was interrupted, its budget cannot hold it, the disk is full, or too many runs failed in a row.
    """
    budget = Budget(config, recorder, executor.resources, executor.now, on_measured)
    reopen_search(config, recorder)
    prepare(stages.start_configuration(config)[1], "train")
    executor.run(_course(config, recorder, budget, watcher, prepare), recorder)


def _course(
    config: SweepConfig,
    recorder: Recorder,
    budget: Budget,
    watcher: Watcher,
    prepare: Callable[[TrialSettings, Side], object],
) -> Iterator[StageRuns]:
    """One stage after another; what follows a `yield` happens when all runs of that stage have ended."""
    journal = recorder.journal
    if not journal.decisions.search_ended:
        yield from _search(config, recorder, budget, watcher)
    if journal.decisions.chosen is None:
        yield from _select(config, recorder, budget, watcher)
    yield from _confirm(config, recorder, budget, watcher, prepare)


def reopen_search(config: SweepConfig, recorder: Recorder) -> None:
    """Go on with a search that its budget ended, where the file now allows more and no confirmation has begun.

    Trials that the budget killed go on from their checkpoints.
    """
    journal = recorder.journal
    if not _reopens(config, journal):
        return
    for settled in (SEARCH_ENDED, SELECTION, CHOSEN, "confirm", CONFIRMATION):
        if journal.decisions.ever(settled):
            journal.decided(settled, None)
    revive(journal, "search")


def _reopens(config: SweepConfig, journal: Journal) -> bool:
    """Whether a search that has ended is to go on."""
    ended, confirming = journal.decisions.search_ended, journal.decisions.confirmation
    confirms = confirming is not None and confirming.seeds > 0  # no seeds: there was nothing to confirm
    if not isinstance(ended, SearchEnd) or confirms or journal.stage("confirmation"):
        return False
    more = ended.reason in LIMITS and raised(ended, config.search.budget)
    more_trials = not ended.reason and config.search.trials > ended.trials
    return more or more_trials


def nothing_left(config: SweepConfig, journal: Journal) -> bool:
    """Whether all that is settled has run, and the file asks for no more.

    Raises:
        ConfigError: it asks for another confirmation than the one that has begun.
    """
    _check_confirmation(config, journal)
    chosen, seeds = journal.decisions.chosen, _settled_seeds(config, journal)
    if chosen is None or seeds is None or _reopens(config, journal):
        return False
    return not stages.confirmation_specs(with_warm_starts(config, journal), journal, chosen, seeds)


def _search(config: SweepConfig, recorder: Recorder, budget: Budget, watcher: Watcher) -> Iterator[StageRuns]:
    journal, earlier = recorder.journal, recorder.journal.stage("search")
    sampler = Sampler(config)
    sampler.replay(earlier, config.search.objective.metric)
    scheduler = build_scheduler(config)
    recorder.sampler = SeveralObjectives(config, journal, sampler) if config.search.objective.beside else sampler
    if scheduler is not None:
        for key in scheduler.replay(earlier):
            recorder.finish(key)
    watcher.on_stage(recorder, "search", config.search.trials)
    next_run = partial(stages.next_trial, config, recorder, sampler)
    budget.check_search()  # a process that died when the budget was spent has left nothing to start
    yield StageRuns("search", next_run, scheduler, budget.check_search)
    ended_by = "" if recorder.stop.resumable else recorder.stop.reason
    if ended_by:
        watcher.on_note(recorder.stop.message)
    end_stage(recorder)
    if stages.best_trial(config, journal) is None:
        raise CtxtuneError(_nothing_completed(journal, budget, ended_by))
    limits = config.search.budget
    journal.decided(
        SEARCH_ENDED,
        SearchEnd(reason=ended_by, hours=limits.hours, gpu_hours=limits.gpu_hours, trials=config.search.trials),
    )


def _nothing_completed(journal: Journal, budget: Budget, ended_by: str) -> str:
    reasons = {run.reason.splitlines()[0] for run in journal.stage("search") if run.state == "failed"}
    text = f"no trial came to its last epoch{': ' if reasons else ''}{'; '.join(sorted(reasons))}"
    if ended_by in LIMITS:
        text += (
            f"; the budget ended the search before. Go on with --resume --set search.budget.{ended_by}="
            f"{budget.needed(ended_by):.1f} or more"
        )
    return text


def _select(config: SweepConfig, recorder: Recorder, budget: Budget, watcher: Watcher) -> Iterator[StageRuns]:
    journal = recorder.journal
    rounds = [Round(*each) for each in _selection_plan(config, recorder, budget, watcher).rounds]
    for number, each in enumerate(rounds):
        racing = _racing(config, recorder, budget, watcher, number)
        specs = stages.selection_specs(config, journal, racing, each.blocks)
        if specs:
            watcher.on_stage(recorder, "selection", sum(new_runs(rounds)))
            yield StageRuns("selection", partial(stages.next_of, specs, recorder), on_event=budget.keep_time)
            end_stage(recorder)
    chosen = select(results_of(config, journal, ended=False))
    if chosen is None:
        raise CtxtuneError("no trial came to its last epoch: there is nothing to select from")
    journal.decided(CHOSEN, chosen)


def _racing(config: SweepConfig, recorder: Recorder, budget: Budget, watcher: Watcher, number: int) -> Sequence[str]:
    """The arms of a round of the selection, settled before its runs; none where the race is over before."""
    journal, plan = recorder.journal, _selection_plan(config, recorder, budget, watcher)
    if number < len(plan.racing):
        return plan.racing[number]
    each = Round(*plan.rounds[number])
    racing = (standings(results_of(config, journal, ended=False)) if number else list(plan.arms))[: each.arms]
    runs = [spec.arm for spec in stages.selection_specs(config, journal, racing, each.blocks)]
    if number and len(racing) < 2:
        racing = []
    elif number and not budget.next_round_fits(racing, runs):
        racing = []
        watcher.on_note(f"selection ends here: {counted(len(runs), 'more run')} would not fit in the budget")
    journal.decided(SELECTION, plan.model_copy(update={"racing": (*plan.racing, tuple(racing))}))
    return racing


def _selection_plan(config: SweepConfig, recorder: Recorder, budget: Budget, watcher: Watcher) -> SelectionPlan:
    """The plan of the selection, settled at the first call, before any of its runs.

    A sweep of an earlier version that was in its selection has all candidates on all blocks, as it began.
    """
    journal = recorder.journal
    asked_for = config.select.model_dump(mode="json") if config.select else None
    settled = journal.decisions.selection
    if settled is not None and _as_recorded(asked_for, settled.select):
        return settled
    arms, blocks = (stages.candidates(config, journal), len(stages.blocks(config))) if config.select else ([], 0)
    begun_before = not journal.decisions.ever(SELECTION) and bool(journal.stage("selection"))
    rounds = (Round(len(arms), blocks),) if begun_before else budget.affordable_race(arms)
    if config.select is None or stages.nothing_but_the_start(config, journal):
        rounds = ()
    settled = SelectionPlan(
        select=asked_for, arms=tuple(arms), rounds=tuple((each.arms, each.blocks) for each in rounds)
    )
    journal.decided(SELECTION, settled)
    asked = len(arms) * blocks
    if sum(new_runs(rounds)) < asked:
        watcher.on_note(
            f"selection: {sum(new_runs(rounds))} of {counted(asked, 'run')} fit in the budget{_told(rounds)}"
        )
    return settled


def _told(rounds: tuple[Round, ...]) -> str:
    if not rounds:
        return "; the best trial is taken as it is"
    return ": " + ", then ".join(f"{each.arms} candidates on {counted(each.blocks, 'block')}" for each in rounds)


def _confirm(
    config: SweepConfig,
    recorder: Recorder,
    budget: Budget,
    watcher: Watcher,
    prepare: Callable[[TrialSettings, Side], object],
) -> Iterator[StageRuns]:
    journal = recorder.journal
    chosen = journal.decisions.chosen
    assert chosen is not None  # settled by the selection
    seeds = _confirmation_seeds(config, journal, chosen, budget, watcher)
    specs = stages.confirmation_specs(config, journal, chosen, seeds)
    if specs:
        prepare(specs[0].trial, "test")
        watcher.on_stage(recorder, "confirmation", seeds * len(stages.confirmed_arms(config, journal, chosen)))
        yield StageRuns("confirmation", partial(stages.next_of, specs, recorder), on_event=budget.keep_time)
        end_stage(recorder)


def _as_recorded(asked: Mapping[str, object] | None, recorded: Mapping[str, object] | None) -> bool:
    """Whether a block of the file still is what was recorded; what its version did not know says nothing."""
    if asked is None or recorded is None:
        return asked is recorded
    return all(asked[key] == value for key, value in recorded.items() if key in asked)


def _asked_of(confirm: ConfirmSettings) -> dict[str, object]:
    """What a test score could tempt to change."""
    return confirm.model_dump(mode="json", include={"seeds", "also", "train_on"})


def _check_confirmation(config: SweepConfig, journal: Journal) -> None:
    """Refuse another confirmation than the one that has begun, if one has.

    Raises:
        ConfigError: see above.
    """
    begun = journal.decisions.confirm
    if config.confirm is None or begun is None:
        return
    begun = {"train_on": "all", **begun}  # versions that did not record it knew no other
    asked = _asked_of(config.confirm)
    if not _as_recorded(asked, begun):
        raise ConfigError(
            f"confirm: the confirmation began with {begun}, now the file says {asked}: seeds that are added once test "
            "scores are known would be optional stopping, which no interval allows for. Leave it, or start with --name NAME"
        )


def _settled_seeds(config: SweepConfig, journal: Journal) -> int | None:
    """How many seeds a confirmation has that was settled before; None: none was."""
    if config.confirm is None:
        return 0
    if journal.decisions.confirmation is not None:
        return journal.decisions.confirmation.seeds
    return config.confirm.seeds if journal.decisions.confirm is not None else None  # of versions without budgets


def _confirmation_seeds(config: SweepConfig, journal: Journal, chosen: str, budget: Budget, watcher: Watcher) -> int:
    """How many seeds confirm the chosen configuration: settled once, before a test score is known.

    Raises:
        ConfigError: a resumed sweep asks for another confirmation than the one that has begun.
    """
    _check_confirmation(config, journal)
    settled = _settled_seeds(config, journal)
    if settled is not None or config.confirm is None:
        return settled or 0
    arms = stages.confirmed_arms(config, journal, chosen)
    seeds = budget.affordable_seeds(arms)
    if stages.nothing_but_the_start(config, journal):
        seeds = 0
        watcher.on_note("confirmation: none, since the budget ended the search before anything but the start had run")
    elif seeds < config.confirm.seeds:
        watcher.on_note(
            f"confirmation: {seeds} of {counted(config.confirm.seeds, 'seed')} fit in the budget; this is settled before a "
            "test score is known"
        )
    journal.decided("confirm", _asked_of(config.confirm))
    journal.decided(CONFIRMATION, ConfirmationPlan(seeds=seeds, asked=config.confirm.seeds, arms=tuple(arms)))
    return seeds
