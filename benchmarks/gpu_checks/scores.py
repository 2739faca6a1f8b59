"""Retrieval scores on the GPU against the CPU's values and against a plain product with topk."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import retrieval
import torch

from ctxtune.retrieval import RetrievalScores, nearest, score
from gpu_checks.measuring import compare, peak_bytes
from gpu_checks.report import Report, Scale

CUTOFFS = (1, 2, 4, 8)


def scores(scale: Scale, report: Report) -> None:
    """Sets of the sizes of CUB, In-Shop and Stanford Online Products, 512 dimensions."""
    for size in scale.pick(("cub", "inshop", "sop"), ("small",)):
        queries, query_labels, gallery, gallery_labels = retrieval.load(size)
        if scale.tiny:
            queries, query_labels = queries[:600], query_labels[:600]
        there = [None if split is None else split.to(scale.device) for split in (queries, gallery)]

        def ours(there: list[Any] = there, labels: tuple[Any, Any] = (query_labels, gallery_labels)) -> RetrievalScores:
            return score(there[0], labels[0], there[1], labels[1], recall_at=CUTOFFS, per_query=True)

        neighbors = retrieval.neighbors_needed(query_labels, gallery_labels)

        def plain(there: list[Any] = there, neighbors: int = neighbors) -> None:
            _topk(there[0], there[1], neighbors)

        seconds = compare({"ours": ours, "plain topk": plain}, scale.device, scale.pick(1.0, 0.05), warm_ups=1)
        started = time.perf_counter()
        expected = score(queries, query_labels, gallery, gallery_labels, recall_at=CUTOFFS, per_query=True)
        on_cpu = time.perf_counter() - started
        for name, taken, work in (
            ("ours", seconds["ours"], ours),
            ("plain topk", seconds["plain topk"], plain),
            ("ours on the CPU", on_cpu, None),
        ):
            peak = None if work is None else peak_bytes(work, scale.device)
            report.row(
                "scores",
                set=size,
                queries=len(queries),
                gallery=None if gallery is None else len(gallery),
                way=name,
                ms=1000 * taken,
                to_plain_topk=taken / seconds["plain topk"],
                peak_mib=peak and peak / 2**20,
                map_at_r=expected.map_at_r if "ours" in name else None,
            )
        report.check(f"{size}: the same scores of every query as on the CPU, to the bit", _same(ours(), expected))
    points = torch.randn(scale.pick(20000, 500), 128, generator=torch.Generator().manual_seed(3))
    found, wanted = nearest(points.to(scale.device), k=10), nearest(points, k=10)
    report.check("nearest: the same neighbors as on the CPU", bool(np.array_equal(found.indices, wanted.indices)))
    difference = float(np.abs(np.asarray(found.similarities) - np.asarray(wanted.similarities)).max())
    report.check("nearest: similarities beside the CPU's", difference, most=1e-12)


def _topk(queries: torch.Tensor, gallery: torch.Tensor | None, neighbors: int) -> None:
    queries = torch.nn.functional.normalize(queries)
    other = queries if gallery is None else torch.nn.functional.normalize(gallery)
    for start in range(0, len(queries), 4096):
        (queries[start : start + 4096] @ other.T).topk(neighbors, dim=1)


def _same(found: RetrievalScores, expected: RetrievalScores) -> bool:
    mine, other = found.per_query, expected.per_query
    assert mine is not None and other is not None
    columns = ("matches", "first_match_rank", "r_precision", "average_precision_at_r")
    equal = (np.array_equal(getattr(mine, name), getattr(other, name), equal_nan=True) for name in columns[2:])
    exact = (np.array_equal(getattr(mine, name), getattr(other, name)) for name in columns[:2])
    return all(equal) and all(exact) and found.recall_at == expected.recall_at
