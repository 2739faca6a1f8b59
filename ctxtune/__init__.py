"""ctxtune: tune and ablate the contextual loss and its rivals for image retrieval.

The names of `__all__` are what a library user wants; each is imported when it is first asked for, so that
`import ctxtune` takes no time and no torch.
"""

from typing import TYPE_CHECKING

from ctxtune import signals
from ctxtune.lazy_names import lazy_names
from ctxtune.version import __version__ as __version__

signals.end_at_once()  # of a command, before anything takes time to import
signals.need_working_directory()

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


__getattr__ = lazy_names(
    __name__,
    {
        "ContextualLoss": ".losses",
        "CrossBatchMemory": ".losses",
        "SelfSupervisedLoss": ".losses",
        "build_loss": ".losses",
        "contextual_similarity": ".losses",
        "load": ".data",
        "load_ablation": ".config",
        "load_search_space": ".config",
        "loss_names": ".losses",
        "score": ".retrieval",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
