"""The design of an ablation as results and reports read it, and what its journal comes to."""

from ctxtune.ablation.runs import folds_of, repeats_of, selection_blocks, trials_held
from ctxtune.config import Ablation, cells_of, changed_values, contrasts_of, reference_cell
from ctxtune.config.ablation import rotation
from ctxtune.config.cell_search import own_space
from ctxtune.config.design import configuration_hash
from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign, CellDesign, ContrastDesign
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.runs import runs_of


def design_of(ablation: Ablation, journal: Journal | None = None) -> AblationDesign:
    """The design, for `design.json`: all that a report needs to read the runs.

    Args:
        journal: of an ablation that has begun: what its budget held is known from there.
    """
    cells = cells_of(ablation)
    asked = ablation.tune_each.trials if ablation.tune_each else 0
    select = ablation.tune_each.select if ablation.tune_each else None
    held = asked if journal is None else trials_held(ablation, journal)
    reference = reference_cell(ablation, cells).name
    return AblationDesign(
        name=ablation.name,
        metric=ablation.compare.scored_metric(confirmatory=ablation.confirmatory),
        mode=ablation.compare.mode,
        correction=ablation.compare.correction,
        reference=reference,
        equivalence=ablation.compare.equivalence,
        study=ablation.study,
        probabilities=ablation.compare.probabilities,
        design=ablation.design,
        seeds=ablation.seeds,
        repeats=repeats_of(ablation),
        folds=["" if fold is None else str(fold) for fold in folds_of(ablation)],
        confirmatory=ablation.confirmatory,
        tuning="each" if ablation.tune_each else "none",
        tuned_for=None if ablation.tune_each else reference,
        trials=asked,
        trials_held=held if held < asked else None,
        selected=min(select.top, held) if select and held > 1 else 0,
        selection_seeds=select.seeds if select else 0,
        selection_folds=[str(fold) for fold in dict.fromkeys(fold for _, fold in selection_blocks(ablation))],
        splits=ablation.tune_each.splits if ablation.tune_each else 1,
        tuned_with=list(journal.decisions.tuned_with) if journal else [],
        rotated=[str(fold) for fold in rotation(ablation)],
        dataset=ablation.trial.dataset.name,
        closed_set=ablation.trial.dataset.closed_set,
        factors={path: list(levels) for path, levels in ablation.factors.items()},
        variants=list(ablation.arms()),
        cells=[
            CellDesign(
                cell=cell.name,
                variant=cell.arm,
                levels=cell.levels,
                settings=changed_values(ablation.trial, cell.settings),
                hash=configuration_hash(cell),
                searched=list(own_space(ablation, cell.arm)),
            )
            for cell in cells
        ],
        contrasts=[ContrastDesign(cell=each.cell, against=each.against) for each in contrasts_of(ablation, cells)],
    )


def results_of(ablation: Ablation, journal: Journal, *, ended: bool) -> AblationResults:
    """What an ablation found; ``ended``: no run is to come."""
    return AblationResults(design_of(ablation, journal), runs_of(journal), ended)
