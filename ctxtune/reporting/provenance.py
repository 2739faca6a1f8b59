"""Where the numbers of a report come from."""

from datetime import datetime, timezone

from ctxtune.reporting.document import Section, Table
from ctxtune.reporting.study import Study

_SHOWN = (
    ("git.commit", "commit"),
    ("git.dirty", "uncommitted changes"),
    ("version.ctxtune", "ctxtune"),
    ("version.torch", "PyTorch"),
    ("version.python", "Python"),
    ("hardware.cpu", "processor"),
    ("hardware.gpu", "GPU"),
    ("hardware.gpus", "GPUs"),
    ("data_set", "data set"),
    ("data.train_fingerprint", "fingerprint of the train split"),
)


def provenance_section(study: Study) -> Section:
    """Versions, hardware and data of the parent run."""
    tags = study.parent.tags
    pairs = [("MLflow run", study.parent.run_id), ("started", moment(study.parent.start_time))]
    if study.parent.end_time:
        pairs.append(("ended", moment(study.parent.end_time)))
    pairs += [(title, tags[tag]) for tag, title in _SHOWN if tag in tags]
    table = Table("provenance", "Recorded with the run.", ["what", "value"], pairs, left=2)
    return Section("Provenance", [table])


def moment(milliseconds: int) -> str:
    """Milliseconds since 1970 as a date and time (UTC)."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
