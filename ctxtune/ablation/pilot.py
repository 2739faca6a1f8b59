"""`pilot`: what an ablation will be able to say, by the deviations of an earlier one or of a few seeds run for it."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from ctxtune.ablation.results import design_of
from ctxtune.config import Ablation
from ctxtune.config.sweep import LONGEST_NAME
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.study import read_study
from ctxtune.results.ablation import AblationResults
from ctxtune.results.formatting import percent
from ctxtune.results.planning import PlannedPower, planned_power
from ctxtune.statistics.planning import MOST_PAIRS
from ctxtune.text import counted
from ctxtune.tracking import redact


def pilot_ablation(ablation: Ablation) -> Ablation:
    """The pilot that `pilot: N` asks for: all cells as they are in the file, N seeds of their own, on validation classes.

    Raises:
        ConfigError: its name would be too long.
    """
    name = f"{ablation.name}-pilot"
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"pilot: {name} is too long a name; {LONGEST_NAME} characters at most: shorten `name`")
    changes = {"name": name, "seeds": ablation.pilot, "pilot": None, "pilot_of": ablation.name}
    return ablation.model_copy(update={**changes, "tune_each": None, "confirmatory": False, "notify": None})


def find_pilot(ablation: Ablation) -> AblationResults | None:
    """What an ablation's pilot found; None: it is one of a few seeds that MLflow does not have yet, and is to be run.

    Raises:
        ConfigError: there is no such ablation in MLflow, or it is none, or it did not score what this one is judged by.
    """
    if isinstance(ablation.pilot, str):
        try:
            named = _read(ablation, ablation.pilot)
        except TrackingError as error:
            raise ConfigError(f"pilot: {ablation.pilot}: {error}") from None
        power_of(ablation, named)
        return named
    pilot = pilot_ablation(ablation)
    try:
        found = _read(ablation, pilot.name)
    except TrackingError:
        return None
    return found if found.ended and found.design.seeds == pilot.seeds and _same_cells(found, pilot) else None


def resumable(root: Path, pilot: Ablation) -> bool:
    """Whether an earlier process has left a pilot that is gone on with."""
    return (root / pilot.name).exists()


def _read(ablation: Ablation, name: str) -> AblationResults:
    study = read_study(ablation.tracking.uri, name)
    if study.parent.kind != "ablation":
        where = redact(ablation.tracking.uri)
        raise TrackingError(f"a {study.parent.kind} in {where}; a pilot is an ablation: only there arms are paired")
    return read_ablation(study).results


def _same_cells(found: AblationResults, pilot: Ablation) -> bool:
    if pilot.trial.precision == "auto" and found.cell_runs:  # which it became where it ran is no other configuration
        settled = {"precision": found.cell_runs[0].setting("precision")}
        pilot = pilot.model_copy(update={"trial": pilot.trial.model_copy(update=settled)})
    hashes = {cell.cell: cell.hash for cell in design_of(pilot).cells}
    return hashes == {name: cell.hash for name, cell in found.cells.items()}


def power_of(ablation: Ablation, pilot: AblationResults) -> PlannedPower:
    """What the ablation will be able to say.

    Raises:
        ConfigError: the pilot says nothing about its metric.
    """
    design = design_of(ablation)
    for metric in dict.fromkeys((design.metric, ablation.compare.metric)):
        try:
            return planned_power(design, pilot, ablation.compare.wanted_difference, metric)
        except ValueError as error:
            told = str(error)
    raise ConfigError(f"pilot: {pilot.design.name}: {told}; name an ablation that scored it, or write pilot: 5")


def power_table(ablation: Ablation, pilot: AblationResults, power: PlannedPower) -> Table:
    """A line for each contrast: what the planned replications find, and how many a wanted difference takes."""
    design = design_of(ablation)
    unit = "repeat" if design.repeats > 1 else "seed"
    wanted = percent(ablation.compare.wanted_difference)
    planned = f"what {counted(design.planned, unit)} find in {metric_title(design.metric)}, points"
    table = Table(
        title=f"{planned}, by the pilot {pilot.design.name}: "
        f"power 80 %, level {power.level:.4g} (in brackets: at the upper 80 % limit of the deviation)",
        title_justify="left",
    )
    table.add_column("contrast", overflow="fold")
    for column in ("deviation", f"found with {design.planned}", f"{unit}s for {wanted}"):
        table.add_column(column, justify="right")
    if design.equivalence is not None:
        table.add_column(f"{unit}s to show equality within {percent(design.equivalence)}", justify="right")
    for each, most in zip(power.by_deviation, power.by_limit, strict=True):
        row = [
            f"{each.contrast.cell} − {each.contrast.against}{'' if each.own else ' *'}",
            f"{percent(each.deviation)} ({percent(most.deviation)})",
            f"{percent(each.detectable)} ({percent(most.detectable)})",
            f"{_many(each.needed)} ({_many(most.needed)})",
        ]
        row += [f"{_many(each.equal)} ({_many(most.equal)})"] if design.equivalence is not None else []
        table.add_row(*row)
    return table


def power_notes(ablation: Ablation, pilot: AblationResults, power: PlannedPower) -> Iterator[str]:
    """What the planning does not know."""
    if not all(each.own for each in power.by_deviation):
        yield "* not in the pilot: by the deviation of its contrasts together"
    repeats = ablation.tune_each.repeats if ablation.tune_each else 1
    if repeats > 1 and pilot.design.repeats == 1:
        yield "the pilot did not repeat its tuning: repeats vary more than its seeds do, and more of them are needed"
    if ablation.confirmatory and not pilot.design.confirmatory:
        yield "the pilot was scored on validation classes, the ablation is on the test classes"


def _many(count: int | None) -> str:
    return f"> {MOST_PAIRS}" if count is None else str(count)
