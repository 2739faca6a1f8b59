"""The reference contrasts of an ablation, judged as one family."""

from dataclasses import dataclass

from ctxtune.reporting.ablation.data import AblationData, Contrast
from ctxtune.statistics import (
    FEWEST_FOR_BOOTSTRAP,
    Interval,
    PairedDifference,
    Verdict,
    compare_pairs,
    hierarchical_interval,
    judge_family,
)


@dataclass(frozen=True)
class JudgedContrast:
    """A cell against its reference.

    Attributes:
        difference: None where there is no pair yet.
        verdict: None also while replications are still to come: to judge at each look would be optional stopping.
        planned: so many replications.
        over_classes: interval over resampled seeds and classes; None where class scores were not kept, or of few seeds.
        condition: what the verdict is conditional on, or "".
    """

    contrast: Contrast
    difference: PairedDifference | None
    verdict: Verdict | None
    planned: int
    over_classes: Interval | None
    condition: str

    @property
    def words(self) -> str:
        """The verdict in plain words."""
        if self.verdict is not None:
            return self.verdict.words
        return "not finished yet" if self.difference is None else f"interim: {self.difference.count} of {self.planned}"


def judge_contrasts(data: AblationData) -> list[JudgedContrast]:
    """All reference contrasts of an ablation, in the file's order, corrected together.

    While the ablation runs, or can be resumed, only contrasts with all their replications are judged; those to come count
    in the correction.
    """
    design = data.design
    planned = design.repeats if design.repeats > 1 else design.seeds
    found: list[tuple[Contrast, PairedDifference | None]] = []
    for contrast in design.contrasts:
        ours, theirs = data.pairs(contrast.cell, contrast.against, design.metric)
        found.append((contrast, compare_pairs(ours, theirs) if ours else None))
    ended = data.study.parent.state not in ("running", "killed")
    whole = [difference is not None and (ended or difference.count >= planned) for _, difference in found]
    known = [difference for (_, difference), all_there in zip(found, whole, strict=True) if difference and all_there]
    verdicts = iter(
        judge_family(known, mode=design.mode, unfinished=len(found) - len(known), equivalence=design.equivalence)
    )
    return [
        JudgedContrast(
            contrast,
            difference,
            next(verdicts) if all_there else None,
            planned,
            _over_classes(data, contrast),
            condition(data, contrast),
        )
        for (contrast, difference), all_there in zip(found, whole, strict=True)
    ]


def condition(data: AblationData, contrast: Contrast) -> str:
    """What a verdict holds under: the luck of one search, or hyperparameters that were tuned for another arm."""
    design = data.design
    if design.repeats > 1:
        return ""
    if design.tuning == "each":
        return "given one tuning run"
    if design.tuned_for is not None and contrast.cell != design.tuned_for:
        return f"given one tuning run; hyperparameters tuned for {design.tuned_for}"
    return "given one tuning run" if design.tuned_for is not None else "given these hyperparameters"


def arm_label(data: AblationData, cell: str) -> str:
    """A cell's name, with a dagger where its hyperparameters were tuned for another (see `label_notes`)."""
    return f"{cell} †" if _tuned_for_another(data, cell) else cell


def label_notes(data: AblationData) -> list[str]:
    """What the dagger of `arm_label` means; nothing where there is none."""
    if not any(_tuned_for_another(data, cell) for cell in data.cells):
        return []
    return [f"† hyperparameters tuned for {data.design.tuned_for}: nothing was tuned in this ablation."]


def reference_at(data: AblationData) -> str:
    """What a level of a factor is compared with."""
    return "the reference at the same level" if len(data.references) > 1 else data.design.reference


def _tuned_for_another(data: AblationData, cell: str) -> bool:
    tuned_for = data.design.tuned_for
    return data.design.tuning == "none" and tuned_for is not None and cell != tuned_for


def _over_classes(data: AblationData, contrast: Contrast) -> Interval | None:
    arms = data.class_arms(contrast.cell, contrast.against, data.design.metric)
    return hierarchical_interval(*arms) if arms and len(arms[0][0].sums) >= FEWEST_FOR_BOOTSTRAP else None
