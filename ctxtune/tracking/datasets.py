"""A data set as MLflow knows it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CONTEXT = "mlflow.data.context"
DIGEST = 16
"""Characters of a digest; MLflow takes 36 at most."""


@dataclass(frozen=True)
class TrackedDataset:
    """A data set beside a run.

    Attributes:
        name: of the data set; ``digest``: of its content.
        place: its folder; "" for data that is made on the spot.
        profile: what is said of it, as JSON.
        context: what the run has used it for.
    """

    name: str
    digest: str
    place: str
    profile: str
    context: str = "training"


def tracked_dataset(settings: Mapping[str, object], fingerprint: str) -> TrackedDataset:
    """A data set by its block `dataset` and the fingerprint of its training data ("": they lie on a cluster alone)."""
    profile = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(f"{fingerprint}{profile if not fingerprint else ''}".encode()).hexdigest()[:DIGEST]
    root = settings.get("root")
    return TrackedDataset(str(settings["name"]), digest, str(Path(str(root)).absolute()) if root else "", profile)


def dataset_input(dataset: TrackedDataset) -> "DatasetInput":
    """The form in which MLflow takes it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind = "local" if dataset.place else "code"
    source: dict[str, object] = {"uri": dataset.place} if dataset.place else {"tags": {}}
    entity = Dataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type=kind,
        source=json.dumps(source),
        profile=dataset.profile,
    )
    return DatasetInput(dataset=entity, tags=[InputTag(CONTEXT, dataset.context)])
