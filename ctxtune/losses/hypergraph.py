"""HIST: class distributions and a hypergraph network over the batch (Lim et al., CVPR 2022)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxtune.losses.checks import check_number, check_positive
from ctxtune.losses.whole_batch import WholeBatchLoss


class HypergraphNetwork(nn.Module):
    """Two layers that pass features along hyperedges (Feng et al., AAAI 2019) and end in class logits.

    Args:
        num_classes, embedding_size: of the logits and of the features.
        width: of the layer between.
    """

    learning_rate_share = 0.01
    """Of the rate of the distributions: 1e-3 where they have 0.1, as the authors train them."""

    def __init__(self, num_classes: int, embedding_size: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(embedding_size, width), nn.Linear(width, num_classes)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, features: Tensor, incidence: Tensor) -> Tensor:
        """(n, d) features and (n, e) incidences to (n, num_classes) logits."""
        node_scale = incidence.sum(dim=1, keepdim=True).rsqrt()
        degrees = incidence.sum(dim=0)
        edge_scale = torch.where(degrees > 0, 1.0 / degrees.clamp(min=1e-12), torch.zeros_like(degrees))
        edges = node_scale * incidence

        def along_edges(values: Tensor) -> Tensor:
            return edges @ (edge_scale.unsqueeze(1) * (edges.T @ values))

        hidden = along_edges(self.first(features))
        # One row has no deviation to be divided by.
        hidden = self.norm(hidden) if len(hidden) > 1 or not self.training else hidden
        return along_edges(self.second(functional.leaky_relu(hidden, 0.1)))


class HistLoss(WholeBatchLoss):
    """Distribution loss + network_weight * cross-entropy of the hypergraph network.

    Each class has a mean and a diagonal covariance, both learned. The distribution loss is the cross-entropy of
    softmax(-scale * squared Mahalanobis distances). Each class of the batch is a hyperedge, which holds its own items
    wholly and the others by exp(-hardness * distance).

    Args:
        num_classes, embedding_size: labels are 0 ... num_classes - 1.
        scale, hardness: tau and alpha in the paper.
        network_weight: lambda_s in the paper.
        network_width: of the hidden layer of the network.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 32.0,
        hardness: float = 0.9,
        network_weight: float = 1.0,
        network_width: int = 512,
    ) -> None:
        super().__init__()
        self.scale, self.hardness = check_positive("scale", scale), check_positive("hardness", hardness)
        self.network_weight = check_number("network_weight", network_weight, minimum=0.0)
        self.means = nn.Parameter(torch.empty(num_classes, embedding_size))
        self.log_variances = nn.Parameter(torch.empty(num_classes, embedding_size))
        for parameter in (self.means, self.log_variances):
            nn.init.kaiming_normal_(parameter, mode="fan_out")
        self.network = HypergraphNetwork(num_classes, embedding_size, network_width)

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """See `WholeBatchLoss`."""
        if self.means.dtype != embeddings.dtype:
            self.to(embeddings.dtype)
        distances = self.distances(embeddings)
        own = functional.one_hot(labels, len(self.means)).to(distances)
        loss = functional.cross_entropy(-self.scale * distances, labels)
        # A class that is not in the batch is an empty edge.
        incidence = torch.where(own > 0, own, torch.exp(-self.hardness * distances)) * own.amax(dim=0)
        logits = self.network(embeddings, incidence)
        return loss + self.network_weight * functional.cross_entropy(logits, labels)

    def distances(self, embeddings: Tensor) -> Tensor:
        """The squared Mahalanobis distance of each row to each class: (n, d) to (n, num_classes)."""
        rows, means = functional.normalize(embeddings, dim=1), functional.normalize(self.means, dim=1)
        precisions = torch.exp(-functional.relu6(self.log_variances))
        weighted = means * precisions
        squares = rows.square() @ precisions.T - 2.0 * rows @ weighted.T + (weighted * means).sum(dim=1)
        return squares.clamp(min=0.0)
