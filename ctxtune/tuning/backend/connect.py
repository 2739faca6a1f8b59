"""What a driver does before its first run: join Ray, size the runs, see that nodes and storage are as they must be."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ctxtune.config import TrialFile
from ctxtune.data import load_dataset
from ctxtune.errors import ConfigError
from ctxtune.tracking import run_environment
from ctxtune.tuning.backend.cluster import RunResources, node_kinds, run_resources
from ctxtune.tuning.backend.nodes import check_nodes
from ctxtune.tuning.backend.ray_internals import connected_from_outside
from ctxtune.tuning.backend.storage import check_storage, try_storage

_OWN_CLASS = re.compile(r"^([A-Za-z_]\w*)(\.\w+)*:\w+$")
OPEN_CLUSTER = (
    "this cluster runs whatever anybody sends who reaches its ports: token authentication is off (RAY_AUTH_MODE=token on "
    "every node turns it on; docs/clusters.md, Security)"
)


@dataclass(frozen=True)
class Connection:
    """Where a sweep or an ablation runs.

    Attributes:
        resources: what one run gets, and how many run at a time.
        storage: where checkpoints go: a folder, or an address of an object store.
        fingerprint: of the training split of the data.
        environment: versions and hardware of the machines that train (`ctxtune.tracking.run_environment`).
    """

    resources: RunResources
    storage: str
    fingerprint: str
    environment: dict[str, str]

    @property
    def tags(self) -> dict[str, str]:
        """What MLflow is told of it."""
        return {**self.environment, "data.train_fingerprint": self.fingerprint}


def usable_storage(storage: str | None) -> str | None:
    """The address of a storage that can be written from here, if one was asked for.

    Raises:
        ConfigError: it is no address of one, or cannot be written.
    """
    place = check_storage(storage) if storage else None
    if place and (problem := try_storage(place)):
        raise ConfigError(f"--storage: from this machine, {problem}")
    return place


def check_before(file: TrialFile, address: str | None, storage: str | None) -> tuple[str | None, str]:
    """All that can be found wrong before Ray: the storage's address and, without a cluster, the data.

    Returns:
        the storage's address, if one was asked for, and the fingerprint of the data; empty where the nodes will say it.

    Raises:
        ConfigError, DataError.
    """
    place = usable_storage(storage)
    return place, "" if address else load_dataset(file.trial.dataset).train.fingerprint()


def connect(
    file: TrialFile,
    *,
    address: str | None,
    storage: str | None,
    fingerprint: str,
    checkpoints: Path,
    max_concurrent: int | str,
    on_note: Callable[[str], None] = lambda text: None,
) -> Connection:
    """What a run gets of the Ray that is running, after a look whether the nodes of a cluster can train.

    Args:
        file: what will run.
        address: of the cluster (`ctxtune.tuning.backend.cluster.cluster_address`); None: Ray is on this machine.
        storage: as `check_before` returned it, ``fingerprint`` too.
        checkpoints: the storage where none was asked for; good for one machine only.
        max_concurrent: the most runs at a time, or auto.
        on_note: told what the user should know.

    Raises:
        ConfigError, DataError: the cluster cannot hold a run, or its nodes lack something, in words.
    """
    resources = replace(
        run_resources(file.resources, max_concurrent), price_per_gpu_hour=file.resources.price_per_gpu_hour
    )
    place = storage or str(checkpoints.absolute())
    if address is None:  # no node will join
        resources = replace(resources, follows=False)
        return Connection(resources, place, fingerprint, run_environment())
    if storage is None and (connected_from_outside() or sum(kind.most for kind in node_kinds()[0]) > 1):
        raise ConfigError(
            "--storage is missing: this cluster has several nodes, and a run that moves to another one finds its checkpoint "
            "only where all of them can read; name a shared folder (/nfs/sweeps) or a bucket (s3://BUCKET/sweeps)"
        )
    if os.environ.get("RAY_AUTH_MODE") != "token":
        on_note(OPEN_CLUSTER)
    node = check_nodes(file.trial.dataset, resources, place, on_note)
    theirs = {key: text for key, text in node.environment.items() if key.startswith(("hardware.", "version."))}
    return Connection(resources, place, node.fingerprint, run_environment() | theirs)


def own_modules(tree: object) -> list[Path]:
    """The user's packages and modules that a configuration names as ``package.module:Class``, where they are not installed.

    Those that are installed the image must hold, like every other library.
    """
    found: dict[str, Path] = {}
    for text in _texts(tree):
        match = _OWN_CLASS.match(text)
        if match and match[1] not in found and match[1] != "ctxtune":
            spec = importlib.util.find_spec(match[1])
            origin = Path(spec.origin) if spec and spec.origin else None
            if origin and not {"site-packages", "dist-packages"} & set(origin.parts):
                found[match[1]] = origin.parent if origin.name == "__init__.py" else origin
    return list(found.values())


def _texts(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _texts(value)
