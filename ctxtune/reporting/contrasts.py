"""The reference contrasts of an ablation, judged as one family."""

from dataclasses import dataclass

from ctxtune.reporting.ablation_data import AblationData, Contrast
from ctxtune.statistics import Interval, PairedDifference, Verdict, compare_pairs, hierarchical_interval, judge_family


@dataclass(frozen=True)
class JudgedContrast:
    """A cell against its reference.

    Attributes:
        difference, verdict: None where there is no pair yet.
        over_classes: interval over resampled seeds and classes; None where class scores were not kept.
        condition: what the verdict is conditional on, or "".
    """

    contrast: Contrast
    difference: PairedDifference | None
    verdict: Verdict | None
    over_classes: Interval | None
    condition: str

    @property
    def words(self) -> str:
        """The verdict in plain words."""
        if self.verdict is None:
            return "not finished yet"
        return self.verdict.words


def judge_contrasts(data: AblationData) -> list[JudgedContrast]:
    """All reference contrasts of an ablation, in the file's order, corrected together."""
    design = data.design
    found: list[tuple[Contrast, PairedDifference | None]] = []
    for contrast in design.contrasts:
        ours, theirs = data.pairs(contrast.cell, contrast.against, design.metric)
        found.append((contrast, compare_pairs(ours, theirs) if ours else None))
    known = [difference for _, difference in found if difference is not None]
    verdicts = iter(judge_family(known, mode=design.mode, unfinished=len(found) - len(known)))
    return [
        JudgedContrast(
            contrast,
            difference,
            next(verdicts) if difference is not None else None,
            _over_classes(data, contrast),
            condition(data, contrast),
        )
        for contrast, difference in found
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
    """A cell's name; where its hyperparameters were tuned for another, with that other's name."""
    tuned_for = data.design.tuned_for
    if data.design.tuning == "none" and tuned_for is not None and cell != tuned_for:
        return f"{cell} (hyperparameters tuned for {tuned_for})"
    return cell


def _over_classes(data: AblationData, contrast: Contrast) -> Interval | None:
    arms = data.class_arms(contrast.cell, contrast.against, data.design.metric)
    return hierarchical_interval(*arms) if arms else None
