"""The frozen backbone of a run as `data.features` wants it: named by its content, built only where features are missing."""

import hashlib
import importlib.metadata
import inspect
import sys

import torch
from torch import Tensor

from ctxtune.config.trial import TrialSettings
from ctxtune.errors import CtxtuneError
from ctxtune.models import EmbeddingModel, build_model
from ctxtune.models.own_backbone import own_class
from ctxtune.models.settings import TIMM, ModelSettings, is_own_class
from ctxtune.models.weights import weight_file
from ctxtune.training.precision import Precision, autocast, channels_last


class FrozenBackbone:
    """Pooled features of the backbone that a configuration names.

    Args:
        trial: the resolved configuration.
        device: where it runs.
        precision: of the forward pass, a definite one.

    Raises:
        ConfigError: its weights cannot be had.
    """

    def __init__(self, trial: TrialSettings, *, device: torch.device, precision: Precision) -> None:
        self.device = device
        self._trial, self._precision = trial, precision
        self._model: EmbeddingModel | None = None
        model = trial.model
        power = f" {model.gem_power:g}" if model.pooling == "gem" else ""
        size = trial.image_size
        self.key = (
            f"{model.backbone} at {size} px, width {model.width}, {backbone_identity(model)}, pooling {model.pooling}{power}, "
            f"{precision}"
        )

    @property
    def width(self) -> int:
        """Channels of a feature."""
        return self._network().embedding.in_features

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Pooled features of normalized images."""
        network = self._network()
        with autocast(self._precision, self.device):
            return network.features(channels_last(images))

    def release(self) -> None:
        """Let go of the network."""
        self._model = None

    def _network(self) -> EmbeddingModel:
        if self._model is None:
            with torch.random.fork_rng([]):  # the run's own numbers do not depend on who computes the features
                model = build_model(self._trial.model, image_size=self._trial.image_size)
            self._model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return self._model


def backbone_identity(settings: ModelSettings) -> str:
    """What tells the frozen backbones of one name apart: the content of their weights, and the code that runs them.

    Raises:
        ConfigError: the weights cannot be had.
    """
    file = weight_file(settings)
    content = f"weights {file.sha256}" if file else "no weights"
    if is_own_class(settings.backbone):
        return f"{content}, code {_own_code(settings.backbone)}"
    library = "timm" if settings.backbone.startswith(TIMM) else "torchvision"
    code = f"{library} {importlib.metadata.version(library)}"
    # Weights that are drawn depend on torch's generators, too.
    return f"{content}, {code}" + ("" if file else f", torch {torch.__version__}")


def check_frozen(state: dict[str, object], model: ModelSettings) -> None:
    """See that what a checkpoint leaves out, because it was frozen, is here as it was.

    Raises:
        CtxtuneError: `model.weights` has another content than that of the run.
    """
    theirs, ours = state.get("weights"), frozen_identity(model)
    if theirs is not None and theirs != ours:
        raise CtxtuneError(
            f"the checkpoint was trained on frozen weights of other content: {theirs}; here {model.weights} is {ours}"
        )


def frozen_identity(model: ModelSettings) -> str | None:
    """The identity of what is frozen and in no checkpoint; None where everything trains."""
    return None if model.train == "full" else backbone_identity(model)


def _own_code(name: str) -> str:
    """A hash of the module that a user's class comes from."""
    module = sys.modules[own_class(name).__module__]
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        source = name
    return hashlib.sha256(source.encode()).hexdigest()[:16]
