"""The Recall@k surrogate with its similarity mixing (Patel et al., CVPR 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ctxtune.losses.average_precision import smooth_step
from ctxtune.losses.checks import check_positive
from ctxtune.losses.numerics import unit_rows
from ctxtune.losses.whole_batch import WholeBatchLoss

_MOST_VALUES = 1 << 25
"""Of one (pair, item) matrix at a time; what is above is computed in blocks, and again for the gradient."""


class RecallAtKLoss(WholeBatchLoss):
    """1 - the mean over queries and cutoffs of a smooth Recall@k.

    Every item is a query. The rank of its positive x is 1 + the sum over all items z but x of
    sigmoid((s_z - s_x) / rank_temperature); as in the authors' code the query itself is one of them. A positive counts
    sigmoid((k - rank) / cutoff_temperature) at the cutoff k; the sum over the positives, at most k, is divided by
    min(k, number of positives). Queries without a positive are left out.

    With `mixing` (SiMix) each pair of a class adds a virtual item a u + (1 - a) v, with a from [0, 1] at random: as a
    query and in every ranking.

    Args:
        cutoffs: the k of Recall@k.
        rank_temperature, cutoff_temperature: of the two sigmoids.
        mixing: whether virtual items are added.
    """

    def __init__(
        self,
        cutoffs: Sequence[int] = (1, 2, 4, 8, 16),
        rank_temperature: float = 0.01,
        cutoff_temperature: float = 1.0,
        mixing: bool = True,
    ) -> None:
        super().__init__()
        if not cutoffs or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in cutoffs):
            raise ValueError(f"cutoffs must be one or more whole numbers above 0, not {list(cutoffs)!r}")
        self.cutoffs = tuple(cutoffs)
        self.rank_temperature = check_positive("rank_temperature", rank_temperature)
        self.cutoff_temperature = check_positive("cutoff_temperature", cutoff_temperature)
        self.mixing = mixing

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """See `WholeBatchLoss`."""
        items, _ = unit_rows(embeddings)
        cutoffs = torch.tensor([min(k, len(items)) for k in self.cutoffs], device=items.device, dtype=items.dtype)
        if self.mixing:
            items, labels = _with_virtual_items(items, labels)
        return 1.0 - self._mean_recall(items @ items.T, labels, cutoffs)

    def _mean_recall(self, similarities: Tensor, labels: Tensor, cutoffs: Tensor) -> Tensor:
        """The mean smooth recall of (n, n) similarities; 1 where no query has a positive."""
        same = labels.unsqueeze(1) == labels
        same.fill_diagonal_(False)
        query, positive = same.nonzero(as_tuple=True)
        if len(query) == 0:
            return 1.0 + 0.0 * similarities.sum()
        size = max(1, _MOST_VALUES // len(labels))
        blocks = [(query[start : start + size], positive[start : start + size]) for start in range(0, len(query), size)]
        if len(blocks) == 1:
            ranks = self._ranks(similarities, query, positive)
        else:
            ranks = torch.cat([checkpoint(self._ranks, similarities, *block, use_reentrant=False) for block in blocks])
        found = smooth_step(cutoffs - ranks.unsqueeze(1), self.cutoff_temperature)
        recall = found.new_zeros(len(labels), len(cutoffs)).index_add(0, query, found).minimum(cutoffs)
        positives = same.sum(dim=1, keepdim=True)
        recall = recall / torch.minimum(positives, cutoffs).clamp(min=1)
        return recall.mean(dim=1)[positives.squeeze(1) > 0].mean()

    def _ranks(self, similarities: Tensor, query: Tensor, positive: Tensor) -> Tensor:
        """The smooth rank of each pair's positive among the query's row: (p,)."""
        above = similarities[query] - similarities[query, positive].unsqueeze(1)
        # The positive itself counts sigmoid(0) = 1/2 in the sum.
        return 0.5 + smooth_step(above, self.rank_temperature).sum(dim=1)


def _with_virtual_items(items: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The items (n, d) and labels (n,), then a mixture of each pair of one class, not normalized."""
    same = labels.unsqueeze(1) == labels
    first, second = same.triu(diagonal=1).nonzero(as_tuple=True)
    share = torch.rand(len(first), 1, device=items.device, dtype=items.dtype)
    mixed = share * items[first] + (1.0 - share) * items[second]
    return torch.cat([items, mixed]), torch.cat([labels, labels[first]])
