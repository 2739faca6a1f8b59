"""A batch together with a memory of earlier embeddings, and pairs between the two."""

import torch
from pytorch_metric_learning.utils import loss_and_miner_utils
from torch import Tensor


def join_reference(
    embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch and memory as one, without the memory's copies of the batch.

    Args:
        embeddings, labels: (n, d) and (n,).
        ref_emb, ref_labels: (m, d) and (m,).

    Returns:
        The joint embeddings (n + m', d) and labels (n + m',), the batch first; and columns (m,), where each row of
        the memory went: its place in the joint rows, for a copy that of its original.
    """
    ref_emb = ref_emb.to(embeddings)
    ref_labels = ref_labels.to(labels)
    original = _originals(embeddings.detach(), labels, ref_emb.detach(), ref_labels)
    kept = original < 0
    places = len(embeddings) - 1 + kept.cumsum(dim=0)
    columns = torch.where(kept, places, original)
    joint = torch.cat([embeddings, ref_emb[kept]])
    return joint, torch.cat([labels, ref_labels[kept]]), columns


def _originals(embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Tensor:
    """For each row of the memory the row of the batch that it equals bit by bit, or -1: (m,)."""
    result = torch.full((len(ref_emb),), -1, dtype=torch.long, device=embeddings.device)
    if len(ref_emb) == 0 or len(embeddings) == 0:
        return result
    # A few coordinates leave few candidates, which are then compared as a whole, block by block.
    probes = torch.linspace(0, embeddings.shape[1] - 1, steps=min(4, embeddings.shape[1])).long().tolist()
    alike = ref_labels.unsqueeze(1) == labels
    for probe in probes:
        alike &= ref_emb[:, probe].unsqueeze(1) == embeddings[:, probe]
    remembered, current = alike.nonzero(as_tuple=True)
    for block in range(0, len(remembered), 1 << 14):
        here, there = remembered[block : block + (1 << 14)], current[block : block + (1 << 14)]
        equal = (ref_emb[here] == embeddings[there]).all(dim=1)
        result[here[equal]] = there[equal]
    return result


def narrowed_pairs(
    indices_tuple: tuple[Tensor, ...], labels: Tensor, rows: int, columns: Tensor | None, *, required: bool
) -> Tensor:
    """The pairs that an indices_tuple names, as a mask (rows, n).

    Args:
        indices_tuple: 3 or 4 tensors, first indices into the batch, second ones into the memory if there is one.
        labels: (n,), of batch and memory.
        rows: size of the batch.
        columns: (m,) from `join_reference`, or None.
        required: whether every pair has to be there, because there is no term to be narrowed.

    Raises:
        ValueError: `required`, and a pair of two different items is left out; or the tuple has a wrong length.
    """
    if len(indices_tuple) not in (3, 4):
        raise ValueError(f"indices_tuple must hold 3 tensors (triplets) or 4 (pairs), not {len(indices_tuple)}")
    first, positive, second, negative = loss_and_miner_utils.convert_to_pairs(indices_tuple, labels)
    mask = torch.zeros(rows, len(labels), dtype=torch.bool, device=labels.device)
    for anchors, others in ((first, positive), (second, negative)):
        others = others.to(labels.device)
        mask[anchors.to(labels.device), others if columns is None else columns[others]] = True
    if required and not bool((mask | torch.eye(*mask.shape, dtype=torch.bool, device=mask.device)).all()):
        raise ValueError(
            "indices_tuple leaves out pairs, but the contrastive term, the only one that pairs can narrow, has the "
            "weight 0: leave out the miner, or give contrastive_weight a value"
        )
    return mask
