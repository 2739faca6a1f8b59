"""Potential fields of embeddings and proxies: PFML (Bhatnagar and Ahuja, CVPR 2025, arXiv 2405.18560)."""

import torch
from torch import Tensor, nn

from ctxtune.losses.checks import check_positive
from ctxtune.losses.numerics import unit_rows
from ctxtune.losses.whole_batch import WholeBatchLoss

_SMALLEST = 1e-3
"""Distances below are taken as this one: the repulsion of a point from its copy would be infinite."""


class PotentialFieldLoss(WholeBatchLoss):
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

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """See `WholeBatchLoss`."""
        points, _ = unit_rows(torch.cat([embeddings, self.proxies.to(embeddings)]))
        return self._energy(points, torch.cat([labels, self.proxy_labels.to(labels)]))

    def _energy(self, points: Tensor, labels: Tensor) -> Tensor:
        """The mean over ordered pairs of different points: (n, d) unit rows and (n,) to a scalar."""
        squares = (2.0 - 2.0 * points @ points.T).clamp(min=_SMALLEST**2)
        same = labels.unsqueeze(1) == labels
        edge = self.radius**2
        reach = torch.where(same, edge / squares.clamp(min=edge), edge / squares.clamp(max=edge))
        potential = reach.pow(self.decay / 2.0)
        signed = torch.where(same, -potential, potential).fill_diagonal_(0.0)
        return signed.sum() / (len(points) * max(len(points) - 1, 1))
