"""How tables and figures of an ablation name its arms."""

from ctxtune.reporting.ablation.data import AblationData
from ctxtune.results.wording import tuning_sentences


def arm_label(data: AblationData, cell: str) -> str:
    """A cell's name, with a dagger where its hyperparameters were tuned for another (see `label_notes`)."""
    return f"{cell} †" if data.results.tuned_for_another(cell) else cell


def label_notes(data: AblationData) -> list[str]:
    """What the dagger of `arm_label` means; nothing where there is none."""
    if not any(data.results.tuned_for_another(cell) for cell in data.results.cells):
        return []
    return [f"† {sentence}" for sentence in tuning_sentences(data.design)]


def reference_at(data: AblationData) -> str:
    """What a level of a factor is compared with."""
    return "the reference at the same level" if len(data.results.references) > 1 else data.design.reference
