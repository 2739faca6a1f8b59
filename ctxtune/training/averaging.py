"""An exponential moving average of a model's weights."""

import copy

import torch

from ctxtune.models import EmbeddingModel


class AveragedModel:
    """A second model whose weights follow those in training: w_avg <- d * w_avg + (1 - d) * w.

    ``d`` is the decay, at step t at most (1 + t) / (10 + t), so that the initial weights are soon forgotten in short
    runs (as in TensorFlow's ExponentialMovingAverage). Floating-point buffers (the statistics of batch norm) are
    averaged alike, counters copied.

    `torch.optim.swa_utils.AveragedModel` would do the same sum, but copies the weights of its first step and counts steps in
    a buffer of its own: the decay could not follow the trainer's step, nor checkpoints of earlier versions be read.

    Args:
        model: the model in training.
        decay: in (0, 1).
    """

    def __init__(self, model: EmbeddingModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: EmbeddingModel, step: int) -> None:
        """Take in the weights after the ``step``-th step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged, current = [], []
        own, theirs = self.model.state_dict(), model.state_dict()
        for name, value in own.items():
            if value.is_floating_point():
                averaged.append(value)
                current.append(theirs[name])
            else:
                value.copy_(theirs[name])
        torch._foreach_lerp_(averaged, current, 1 - decay)
