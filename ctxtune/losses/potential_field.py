"""Potential fields of embeddings and proxies: PFML (Bhatnagar and Ahuja, CVPR 2025, arXiv 2405.18560)."""

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils.common_functions import (
    indices_tuple_not_supported,
    labels_required,
    ref_not_supported,
)
from torch import Tensor, nn

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_not_empty, check_positive
from ctxtune.losses.numerics import at_least_float32, unit_rows

_SMALLEST = 1e-3
"""Distances below are taken as this one: the repulsion of a point from its copy would be infinite."""


class PotentialFieldLoss(BaseMetricLossFunction):
    """The mean potential energy of the batch and all proxies in the fields of one another.

    A point at distance r from another adds -(radius / max(r, radius))^decay where both are of one class, and
    (radius / min(r, radius))^decay where they are not: points of a class attract each other from beyond the radius,
    those of different classes repel each other within it, and both forces fall with the distance. These are the
    paper's potentials times radius^decay, so that the value does not depend on its unit.

    The authors published no code. Number of proxies from the paper (15 a class for CUB and Cars, 2 for SOP); decay and
    radius are tuned there for each data set, and the defaults here are only a start for a search.

    Args:
        num_classes, embedding_size: labels are 0 ... num_classes - 1.
        proxies_per_class: learned points that stand for parts of a class.
        decay: the power with which potentials fall, above 0.
        radius: in distances between unit vectors, above 0.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        proxies_per_class: int = 15,
        decay: float = 4.0,
        radius: float = 0.2,
    ) -> None:
        super().__init__()
        self.decay, self.radius = check_positive("decay", decay), check_positive("radius", radius)
        self.proxies = nn.Parameter(torch.empty(num_classes * proxies_per_class, embedding_size))
        nn.init.normal_(self.proxies)
        self.proxy_labels: Tensor
        self.register_buffer(
            "proxy_labels", torch.arange(num_classes).repeat_interleave(proxies_per_class), persistent=False
        )

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, object]]:
        """Called by `forward`. Takes neither an indices_tuple nor a reference set (ValueError)."""
        labels_required(labels)
        assert labels is not None
        indices_tuple_not_supported(indices_tuple)
        ref_not_supported(embeddings, labels, ref_emb, ref_labels)
        check_not_empty(len(embeddings))
        with full_float32(embeddings.device.type):
            embeddings = at_least_float32(embeddings)
            points, _ = unit_rows(torch.cat([embeddings, self.proxies.to(embeddings)]))
            energy = self._energy(points, torch.cat([labels, self.proxy_labels.to(labels)]))
        return {"loss": {"losses": energy, "indices": None, "reduction_type": "already_reduced"}}

    def _energy(self, points: Tensor, labels: Tensor) -> Tensor:
        """The mean over ordered pairs of different points: (n, d) unit rows and (n,) to a scalar."""
        squares = (2.0 - 2.0 * points @ points.T).clamp(min=_SMALLEST**2)
        same = labels.unsqueeze(1) == labels
        edge = self.radius**2
        reach = torch.where(same, edge / squares.clamp(min=edge), edge / squares.clamp(max=edge))
        potential = reach.pow(self.decay / 2.0)
        signed = torch.where(same, -potential, potential).fill_diagonal_(0.0)
        return signed.sum() / (len(points) * max(len(points) - 1, 1))
