"""Hyperbolic distance between embeddings, for losses of pairs (Ermolov et al., CVPR 2022: Hyp-ViT, Hyp-DINO)."""

import torch
from pytorch_metric_learning.distances import BaseDistance
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor

from ctxtune.losses.checks import check_number, check_positive


class HyperbolicDistance(BaseDistance):
    """The distance in the Poincare ball of curvature -c between the exponential maps of two rows.

    A row u, cut to at most `clip_radius`, stands for the point tanh(sqrt(c) |u|) u / (sqrt(c) |u|). With
    1 - c |x|^2 = 1 / cosh(sqrt(c) |u|)^2, computed from u where it does not cancel, the distance of two points is
    arcosh(1 + 2 c |x - y|^2 / ((1 - c |x|^2) (1 - c |y|^2))) / sqrt(c).

    Args:
        curvature: c, in (0, 4].
        clip_radius: in (0, 10].
    """

    def __init__(self, curvature: float = 0.1, clip_radius: float = 2.3) -> None:
        super().__init__(normalize_embeddings=False)
        check_number("curvature", check_positive("curvature", curvature), maximum=4.0)
        check_number("clip_radius", check_positive("clip_radius", clip_radius), maximum=10.0)
        self.curvature, self.clip_radius = curvature, clip_radius

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor | None) -> Tensor:
        """(n, d) and (m, d) to (n, m)."""
        points, factors = self._in_ball(query_emb)
        others, other_factors = (points, factors) if ref_emb is None else self._in_ball(ref_emb)
        squares = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").square()
        return self._distance(squares, factors * other_factors.T)

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """(n, d) and (n, d) to (n,)."""
        points, factors = self._in_ball(query_emb)
        others, other_factors = self._in_ball(ref_emb)
        return self._distance((points - others).square().sum(dim=1), (factors * other_factors).squeeze(1))

    def _in_ball(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The points (n, d), and 1 / (1 - c |x|^2) of each (n, 1)."""
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        safe = lengths.masked_fill(lengths == 0, 1.0)
        angle = self.curvature**0.5 * lengths.clamp(max=self.clip_radius)
        points = rows / safe * torch.tanh(angle) / self.curvature**0.5
        return points, torch.cosh(angle).square()

    def _distance(self, squares: Tensor, factors: Tensor) -> Tensor:
        excess = 2.0 * self.curvature * squares * factors
        apart = excess > 0
        excess = torch.where(apart, excess, torch.ones_like(excess))
        # arcosh(1 + t) without the cancellation of its definition at small t.
        distance = torch.log1p(excess + (excess * (excess + 2.0)).sqrt()) / self.curvature**0.5
        return torch.where(apart, distance, torch.zeros_like(distance))


class HyperbolicLoss(NTXentLoss):
    """Cross-entropy of each positive pair against the negatives of its first item, over hyperbolic distances.

    With two images a class this is the authors' loss, halved (they add both views' means). With more of them the
    authors compare two views at a time, and this one all negatives of the batch at once. Embeddings are taken as they
    are: their lengths say how far from the origin a point lies. Scores are still those of cosine similarity.

    Args:
        temperature: of the softmax.
        curvature, clip_radius: of `HyperbolicDistance`.
    """

    def __init__(self, temperature: float = 0.2, curvature: float = 0.1, clip_radius: float = 2.3) -> None:
        super().__init__(
            temperature=check_positive("temperature", temperature), distance=HyperbolicDistance(curvature, clip_radius)
        )
