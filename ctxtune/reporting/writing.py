"""From a name in MLflow to a report on disk and beside the run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ctxtune.errors import TrackingError
from ctxtune.reporting.ablation.data import read_ablation
from ctxtune.reporting.ablation.report import ablation_document
from ctxtune.reporting.comparison import compared_ablations, compared_sweeps
from ctxtune.reporting.document import Document
from ctxtune.reporting.rendering import ReportFiles, write_document
from ctxtune.reporting.study import Study, read_study
from ctxtune.reporting.sweep.data import read_sweep
from ctxtune.reporting.sweep.report import sweep_document
from ctxtune.tracking import log_folder

ARTIFACTS = "report"
"""Where a report lies among the artifacts of its run."""


def write_report(uri: str, name: str, folder: Path, *, store: bool = True, processes: int = 1) -> ReportFiles:
    """Make the report of a sweep or ablation, finished or still running, from its tracking server alone.

    Arguments as for `report_study`, which is called with what is there under this name.

    Raises:
        TrackingError: no such sweep, nothing to report on, or the server cannot be read.
    """
    return report_study(read_study(uri, name), folder, store=store, processes=processes)


def report_study(
    study: Study,
    folder: Path,
    *,
    store: bool = True,
    processes: int = 1,
    probabilities: bool = False,
    on_note: Callable[[str], None] = lambda text: None,
) -> ReportFiles:
    """Make the report of what was read.

    Args:
        folder: where the files go.
        store: also log them as artifacts of the sweep's or ablation's own run.
        processes: with 2, what can be done side by side is (see `background.begin`).
        probabilities: of an ablation's arms being practically better, equal or worse.
        on_note: hears what is worth saying, such as a server that can be read but not written.

    Raises:
        TrackingError: there is nothing to report on, or the server cannot be read.
    """
    if not study.runs:
        raise TrackingError(f"{study.parent.kind} {study.name} has no runs yet: there is nothing to report on")
    files = write_document(_document(study, processes, probabilities=probabilities), folder, processes=processes)
    if store:
        _store(study, files, on_note)
    return files


def write_comparison(uri: str, names: Sequence[str], folder: Path) -> ReportFiles:
    """Put sweeps, or ablations, side by side; the files go into `folder`, and nowhere else.

    Raises:
        TrackingError: one of them is not there, they are of different kinds or have nothing in common.
    """
    studies = [read_study(uri, name) for name in names]
    kinds = {study.parent.kind for study in studies}
    if len(kinds) > 1:
        listed = ", ".join(f"{study.name} is {'an' if study.parent.kind == 'ablation' else 'a'} {study.parent.kind}"
                           for study in studies)  # fmt: skip
        raise TrackingError(f"--compare takes sweeps or ablations, not both: {listed}")
    if kinds == {"ablation"}:
        return write_document(compared_ablations([read_ablation(study) for study in studies]), folder)
    return write_document(compared_sweeps([read_sweep(study) for study in studies]), folder)


def _document(study: Study, processes: int, *, probabilities: bool) -> Document:
    if study.parent.kind == "ablation":
        return ablation_document(read_ablation(study, probabilities=probabilities))
    if probabilities:
        raise TrackingError(f"--probabilities compares arms of an ablation; {study.name} is a {study.parent.kind}")
    return sweep_document(read_sweep(study), processes)


def _store(study: Study, files: ReportFiles, on_note: Callable[[str], None]) -> None:
    try:
        log_folder(study.uri, study.parent.run_id, files.folder, ARTIFACTS)
    except TrackingError as error:
        on_note(f"the report is not among the artifacts of its run: {error}")
