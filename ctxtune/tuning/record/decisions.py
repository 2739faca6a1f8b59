"""What a sweep or an ablation settles once, as its journal holds it: every name and its type.

The names and their fields are a promise (they stand in journals): fields may be added with a default.
"""

from pydantic import BaseModel, ConfigDict

from ctxtune.results.designs import EarlierTuning


class _Settled(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SearchEnd(_Settled):
    """How the search ended.

    Attributes:
        reason: of the rule that ended it; "" where it had all its trials.
        hours, gpu_hours, trials: the limits that it had.
    """

    reason: str = ""
    hours: float | None = None
    gpu_hours: float | None = None
    trials: int = 0


class TuningEnd(_Settled):
    """How the tuning of an ablation's cells ended.

    Attributes:
        reason: the limit of the budget that ended it; "" where every cell had all its trials.
        trials: of every cell that count; ``asked``: of the file.
        hours, gpu_hours: the limits that it had.
    """

    reason: str = ""
    trials: int
    asked: int
    hours: float | None = None
    gpu_hours: float | None = None


class SelectionPlan(_Settled):
    """The selection, settled before any of its runs.

    Attributes:
        select: the block of the file that it goes by; None where there is no selection.
        arms: the candidates, the most promising first.
        rounds: (arms, blocks) of each round of the race.
        racing: the arms of each round that has begun.
    """

    select: dict[str, object] | None
    arms: tuple[str, ...]
    rounds: tuple[tuple[int, int], ...]
    racing: tuple[tuple[str, ...], ...] = ()


class ConfirmationPlan(_Settled):
    """The confirmation, settled before a test score is known.

    Attributes:
        seeds: of each arm; ``asked``: those that the file asks for.
        arms: the chosen configuration, and the start where it is confirmed beside it.
    """

    seeds: int
    asked: int = 0
    arms: tuple[str, ...] = ()


class Decisions(BaseModel):
    """All decisions of a journal; None (or empty) is one that is still to come, or was taken back.

    Attributes:
        sweep_id: what names the runs in MLflow.
        precision: what ``precision: auto`` came to.
        warm_starts: the points that each warm start of the file came to, in their order.
        search_ended: true in sweeps of versions that knew no reasons, and in ablations of versions without budgets.
        tuning_ended: of an ablation; settled before a run of the seeds.
        tuned_with: of an ablation: what earlier sweeps and ablations have spent on its arms.
        hours_spent: of the budget, in the processes so far.
        chosen: the arm to confirm.
        confirm: the seeds and the arms beside the chosen one that the confirmation began with.
    """

    model_config = ConfigDict(extra="allow", validate_assignment=True)

    sweep_id: str = ""
    precision: str | None = None
    warm_starts: list[list[dict[str, object]]] | None = None
    search_ended: SearchEnd | bool | None = None
    tuning_ended: TuningEnd | None = None
    tuned_with: tuple[EarlierTuning, ...] = ()
    hours_spent: float = 0.0
    selection: SelectionPlan | None = None
    chosen: str | None = None
    confirm: dict[str, object] | None = None
    confirmation: ConfirmationPlan | None = None

    def take(self, name: str, value: object) -> None:
        """Settle one; names that this version does not know are kept as they are.

        Raises:
            pydantic.ValidationError: the value is not what the name stands for.
        """
        setattr(self, name, value)

    def ever(self, name: str) -> bool:
        """Whether this was ever settled, also where it was taken back since."""
        return name in self.model_fields_set
