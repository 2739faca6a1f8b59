"""The runs of an ablation: every cell's own search, then every cell over the same seeds."""

import itertools
from collections.abc import Callable, Iterator

from ctxtune.ablation.searches import Searches, search_key
from ctxtune.config import Ablation, Cell, TrialSettings, stage_seed
from ctxtune.config.ablation import rotation
from ctxtune.data import ValidationSettings
from ctxtune.results.selection import chosen, most_promising
from ctxtune.tuning.record.journal import Journal, RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec

TUNING_ENDED = "tuning_ended"
"""The decision in the journal that settles what every cell was tuned by."""


def repeats_of(ablation: Ablation) -> int:
    """How often search and seeds are repeated; once where nothing is tuned."""
    return ablation.tune_each.repeats if ablation.tune_each else 1


def folds_of(ablation: Ablation) -> tuple[int | None, ...]:
    """The fold of each run of a cell and seed; None stands for all train classes, and the test classes are scored."""
    return (None,) if ablation.confirmatory else ablation.validation.use


def run_count(ablation: Ablation, cells: int) -> tuple[int, int]:
    """How many runs tune, and how many are scored."""
    tuning = cells * repeats_of(ablation) * ablation.tune_each.trials if ablation.tune_each else 0
    return tuning, cells * repeats_of(ablation) * ablation.seeds * len(folds_of(ablation))


def selection_blocks(ablation: Ablation, repeat: int = 0) -> list[tuple[int, int]]:
    """Seed and fold of each run that a candidate of a cell's selection has; none where nothing is selected."""
    tune = ablation.tune_each
    if tune is None or tune.select is None:
        return []
    wanted = tune.select.folds
    folds = range(ablation.validation.count) if wanted == "all" else wanted or tuning_folds(ablation, repeat)
    return [(seed_index, fold) for seed_index in range(tune.select.seeds) for fold in folds]


def selection_count(ablation: Ablation, cells: int, trials: int | None = None) -> int:
    """How many runs select, after so many trials of every cell (those of the file, if nothing is said)."""
    tune = ablation.tune_each
    if tune is None or tune.select is None:
        return 0
    top = min(tune.select.top, tune.trials if trials is None else trials)
    return cells * tune.repeats * top * len(selection_blocks(ablation)) if top > 1 else 0


def tuning_folds(ablation: Ablation, repeat: int = 0) -> tuple[int, ...]:
    """The folds that the searches of a repeat score; equally many in each."""
    if turns := rotation(ablation):
        return (turns[repeat % len(turns)],)
    folds = ablation.tune_each.folds if ablation.tune_each else None
    return folds if isinstance(folds, tuple) else ablation.validation.use


def validation_of(ablation: Ablation, repeat: int) -> ValidationSettings:
    """The split of the train classes that a repeat has."""
    splits = ablation.tune_each.splits if ablation.tune_each else 1
    if splits == 1:
        return ablation.validation
    return ablation.validation.model_copy(update={"seed": ablation.validation.seed + repeat % splits})


def trials_held(ablation: Ablation, journal: Journal) -> int:
    """How many trials of every cell count: those of the file, or fewer where a budget ended the tuning."""
    ended = journal.decisions.tuning_ended
    asked = ablation.tune_each.trials if ablation.tune_each else 0
    return ended.trials if ended is not None else asked


def next_trial(
    ablation: Ablation, recorder: Recorder, searches: Searches, admits: Callable[[int], bool] = lambda number: True
) -> RunSpec | None:
    """The trial that tunes a cell to start now: what an earlier process left unfinished, then by turns; None: no more.

    ``admits`` is asked before a round, trial n of every cell, is begun.

    All cells meet the same randomness: trial n of each has the same seed, and a sampler with the same seed. Taking
    turns lets a sampler see the score of one trial before it suggests the next, though trials run side by side.
    """
    tune = ablation.tune_each
    if tune is None:
        return None
    for run in recorder.journal.stage("cell_search"):
        if recorder.may_start(run.key):
            return run.spec
    for number in range(tune.trials):
        begun = any(key in recorder.journal.runs for key, _ in searches.round(number))
        for repeat, cell in itertools.product(range(tune.repeats), searches.cells):
            key = search_key(cell, repeat, number)
            if key in recorder.journal.runs or searches.exhausted(cell, repeat):
                continue
            if not begun and not admits(number):
                return None
            suggested = searches.ask(cell, repeat, key)
            if suggested is not None:  # a small space comes to its end before its trials do
                return _trial_spec(ablation, cell, repeat, number, suggested, searches.memory(key))
    return None


def _trial_spec(
    ablation: Ablation,
    cell: Cell,
    repeat: int,
    number: int,
    suggested: tuple[dict[str, object], TrialSettings],
    memory: dict[str, object],
) -> RunSpec:
    assert ablation.tune_each is not None
    point, trial = suggested
    key = search_key(cell, repeat, number)
    return RunSpec(
        key=key,
        stage="cell_search",
        arm=cell.name,
        point=point,
        trial=trial,
        validation=validation_of(ablation, repeat),
        folds=tuning_folds(ablation, repeat),
        seed_index=repeat,
        seed=stage_seed("cell_search", repeat),
        tags={**_tags(cell, repeat), "trial": str(number)},
        memory=memory,
    )


def candidates(ablation: Ablation, cell: Cell, repeat: int, journal: Journal) -> list[RunRecord]:
    """The trials of a cell's search that are run again before one is chosen, the best first; none where one is left."""
    select = ablation.tune_each.select if ablation.tune_each else None
    if select is None:
        return []
    trials = _search_trials(ablation, cell, repeat, journal)
    found = most_promising(trials, [ablation.compare], select.top, lambda run: run.spec.trial.hash())
    return found if len(found) > 1 else []


def selection_specs(ablation: Ablation, cells: list[Cell], journal: Journal) -> Iterator[RunSpec]:
    """The candidates of every cell on the same folds and fresh seeds; without the runs that have ended."""
    arms = [
        (cell, repeat, trial)
        for repeat in range(repeats_of(ablation))
        for cell in cells
        for trial in candidates(ablation, cell, repeat, journal)
    ]
    blocks = [selection_blocks(ablation, repeat) for repeat in range(repeats_of(ablation))]
    for number in range(len(blocks[0])):
        for cell, repeat, trial in arms:
            seed_index, fold = blocks[repeat][number]
            key = f"{trial.key}-seed{seed_index}-fold{fold}"
            if key in journal.runs and journal.runs[key].state != "running":
                continue
            yield RunSpec(
                key=key,
                stage="selection",
                arm=cell.name,
                point=trial.spec.point,
                trial=trial.spec.trial,
                validation=trial.spec.validation,
                folds=(fold,),
                seed_index=seed_index,
                seed=_repeated_seed("selection of a cell", repeat, seed_index),
                tags={**trial.spec.tags, "fold": str(fold)},
            )


def cell_specs(ablation: Ablation, cells: list[Cell], journal: Journal) -> Iterator[RunSpec]:
    """Every cell at its tuned configuration, seed by seed: what an interrupted ablation has, is balanced over cells."""
    for repeat in range(repeats_of(ablation)):
        for seed_index in range(ablation.seeds):
            for fold in folds_of(ablation):
                for cell in cells:
                    tuned = tuned_configuration(ablation, cell, repeat, journal)
                    key = cell_key(ablation, cell, repeat, seed_index, fold)
                    if tuned is None or (key in journal.runs and journal.runs[key].state != "running"):
                        continue
                    point, trial = tuned
                    yield RunSpec(
                        key=key,
                        stage="cell",
                        arm=cell.name,
                        point=point,
                        trial=trial,
                        validation=validation_of(ablation, repeat),
                        folds=() if fold is None else (fold,),
                        seed_index=seed_index,
                        seed=cell_seed(ablation, repeat, seed_index),
                        tags={**_tags(cell, repeat), "fold": "" if fold is None else str(fold)},
                    )


def cell_seed(ablation: Ablation, repeat: int, seed_index: int) -> int:
    """The seed of a cell's run: the same for every cell and fold, another in every repeat; a pilot has its own."""
    return _repeated_seed("pilot" if ablation.pilot_of else "cell", repeat, seed_index)


def _repeated_seed(stage: str, repeat: int, seed_index: int) -> int:
    return stage_seed(stage if repeat == 0 else f"{stage}, repeat {repeat}", seed_index)


def tuned_configuration(
    ablation: Ablation, cell: Cell, repeat: int, journal: Journal
) -> tuple[dict[str, object], TrialSettings] | None:
    """Point and configuration that a cell's search found best; the cell's own where nothing is tuned.

    The cell's own, too, where the budget ended the tuning before every cell had a trial; None where no trial of its search
    came to the last epoch.
    """
    if ablation.tune_each is None or trials_held(ablation, journal) == 0:
        return {}, cell.trial
    found = chosen_trial(ablation, cell, repeat, journal)
    return None if found is None else (found.spec.point, found.spec.trial)


def chosen_trial(ablation: Ablation, cell: Cell, repeat: int, journal: Journal) -> RunRecord | None:
    """The trial of a cell's search that the cell is run with: see `ctxtune.results.selection.chosen`."""
    again = [
        run
        for run in journal.stage("selection")
        if run.spec.arm == cell.name and int(run.spec.tags["repeat"]) == repeat
    ]
    return chosen(
        _search_trials(ablation, cell, repeat, journal), again, ablation.compare, lambda run: run.spec.tags["trial"]
    )


def _search_trials(ablation: Ablation, cell: Cell, repeat: int, journal: Journal) -> list[RunRecord]:
    """The trials of a cell's search that count."""
    keys = [search_key(cell, repeat, number) for number in range(trials_held(ablation, journal))]
    return [journal.runs[key] for key in keys if key in journal.runs]


def cell_key(ablation: Ablation, cell: Cell, repeat: int, seed_index: int, fold: int | None) -> str:
    """The name of a cell's run."""
    repeated = f"-repeat{repeat}" if repeats_of(ablation) > 1 else ""
    return f"{cell.key}{repeated}-seed{seed_index}" + ("" if fold is None else f"-fold{fold}")


def _tags(cell: Cell, repeat: int) -> dict[str, str]:
    return {"cell": cell.name, "variant": cell.arm, "repeat": str(repeat)}
