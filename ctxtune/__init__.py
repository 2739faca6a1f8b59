"""ctxtune: tune and ablate the contextual loss and its rivals for image retrieval.

The names of `__all__` are what a library user wants; each is imported when it is first asked for, so that
`import ctxtune` takes no time and no torch.
"""

import importlib
from typing import TYPE_CHECKING

from ctxtune.version import __version__ as __version__

if TYPE_CHECKING:
    from ctxtune.config import load_ablation, load_search_space
    from ctxtune.data import load
    from ctxtune.losses import (
        ContextualLoss,
        CrossBatchMemory,
        SelfSupervisedLoss,
        build_loss,
        contextual_similarity,
        loss_names,
    )
    from ctxtune.retrieval import score

_HOMES = {
    "ContextualLoss": "ctxtune.losses",
    "CrossBatchMemory": "ctxtune.losses",
    "SelfSupervisedLoss": "ctxtune.losses",
    "build_loss": "ctxtune.losses",
    "contextual_similarity": "ctxtune.losses",
    "load": "ctxtune.data",
    "load_ablation": "ctxtune.config",
    "load_search_space": "ctxtune.config",
    "loss_names": "ctxtune.losses",
    "score": "ctxtune.retrieval",
}
__all__ = [
    "ContextualLoss",
    "CrossBatchMemory",
    "SelfSupervisedLoss",
    "build_loss",
    "contextual_similarity",
    "load",
    "load_ablation",
    "load_search_space",
    "loss_names",
    "score",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctxtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
