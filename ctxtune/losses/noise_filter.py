"""Leaves images with doubtful labels out of a batch: PRISM (Liu et al., CVPR 2021)."""

import torch
from torch import Tensor, nn

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_number
from ctxtune.losses.numerics import unit_rows


class NoiseFilter(nn.Module):
    """Keeps the items of a batch whose labels are likely right, before any loss sees it.

    An item's label is right with the probability softmax(centers · item)[label], where the center of a class is the
    mean of its remembered unit rows. What lies above the mean, over the last `window` batches, of the `noise_rate`
    quantile is kept and remembered. A class that is not remembered yet is believed. Memory and window are buffers: a
    resumed run goes on with them.

    Args:
        num_classes: labels are 0 ... num_classes - 1.
        embedding_dim: width of the embeddings.
        noise_rate: the share of wrong labels that is expected, in [0, 1).
        window: number of batches whose quantiles are averaged.
        size: number of rows that are remembered.
    """

    rows: Tensor
    labels: Tensor
    thresholds: Tensor
    position: Tensor
    batches: Tensor

    def __init__(self, num_classes: int, embedding_dim: int, noise_rate: float, window: int, size: int) -> None:
        super().__init__()
        self.num_classes, self.window, self.size = num_classes, window, size
        self.noise_rate = check_number("noise_rate", noise_rate, minimum=0.0, maximum=1.0)
        self.register_buffer("rows", torch.zeros(size, embedding_dim))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("thresholds", torch.full((window,), torch.nan))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Which items to keep, at least two and a quarter of them: (n, d) and (n,) to (n,) bool."""
        with full_float32(embeddings.device.type):
            units, _ = unit_rows(embeddings.detach())
            units = units.to(self.rows.dtype)
            kept = self._kept(self.probabilities(units, labels))
            self._remember(units[kept], labels[kept])
        return kept

    def probabilities(self, units: Tensor, labels: Tensor) -> Tensor:
        """How likely each label is right, by what is remembered: (n, d) unit rows and (n,) to (n,)."""
        known = self.labels >= 0
        counts = torch.bincount(self.labels[known], minlength=self.num_classes)
        sums = units.new_zeros(self.num_classes, units.shape[1]).index_add(0, self.labels[known], self.rows[known])
        centers = sums / counts.clamp(min=1).unsqueeze(1)
        right = torch.softmax(units @ centers.T, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        return torch.where(counts[labels] > 0, right, torch.ones_like(right))

    def _kept(self, probabilities: Tensor) -> Tensor:
        doubtful = int(self.noise_rate * len(probabilities))
        everything = torch.ones_like(probabilities, dtype=torch.bool)
        if doubtful == 0:
            return everything
        order = probabilities.argsort()
        quantile = probabilities[order[doubtful - 1]]
        if quantile < 1.0:
            self.thresholds[self.batches % self.window] = quantile
            self.batches += 1
        threshold = self.thresholds.nanmean()
        kept = probabilities > threshold if threshold.isfinite() else everything
        if kept.sum() >= max(2, len(probabilities) // 4):
            return kept
        # The embeddings have moved since the window began: only this batch counts, and the window starts anew.
        self.thresholds.fill_(torch.nan)
        self.thresholds[0], self.batches = quantile, torch.ones_like(self.batches)
        everything[order[: min(doubtful, len(order) - max(2, len(order) // 4))]] = False
        return everything

    def _remember(self, units: Tensor, labels: Tensor) -> None:
        units, labels = units[-self.size :], labels[-self.size :]
        places = (self.position + torch.arange(len(labels), device=labels.device)) % self.size
        self.rows[places], self.labels[places] = units, labels
        self.position = (self.position + len(labels)) % self.size
