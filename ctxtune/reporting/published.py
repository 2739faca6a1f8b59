"""Published scores of a data set, to stand beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass

from ctxtune.recipes import published_results

_METHODS = {
    "contextual": "contextual loss",
    "multi_similarity_miner": "multi-similarity with miner",
    "multi_similarity": "multi-similarity",
    "proxy_anchor": "Proxy-Anchor",
    "proxy_nca": "Proxy-NCA",
    "roadmap": "ROADMAP",
    "contrastive": "contrastive",
    "triplet": "triplet",
    "pfml": "PFML",
    "hist": "HIST",
    "pfml_cvpr2025": "PFML (CVPR 2025)",
    "hist_cvpr2022": "HIST (CVPR 2022)",
    "proxy_anchor_cvpr2020": "Proxy-Anchor (CVPR 2020)",
}
_PROXY_PER_IMAGE = frozenset({"proxy_anchor", "proxy_nca"})
"""Baselines of the authors' 224 px code, see the caveat of their recipes."""
_NOISE = "label_noise_20_percent"


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        scores: Recall@K in [0, 1] by metric name (`recall_at_1`).
        network: backbone, width of the embedding, and the data it was pretrained on.
    """

    method: str
    source: str
    scores: Mapping[str, float]
    network: str = "ResNet-50, 512-d, ImageNet-1k"


def published_scores(dataset: str, label_noise: float = 0.0) -> list[Published]:
    """All published scores on the test classes of a data set; those under label noise only where ours is the same."""
    found: list[Published] = []
    results = published_results()
    if label_noise:
        return _by_method(results[_NOISE], dataset, "20 % label noise, 5 runs") if abs(label_noise - 0.2) < 1e-9 else []
    log = results["contextual_256"].get(dataset)
    if log:
        found.append(Published("contextual loss", "authors' log, 256 px, one run", _shares(log)))
    for method, scores in results["figure_224"].get(dataset, {}).items():
        scores = {"recall_at_1": scores["test"]}
        source = "authors' rebuttal figure, 224 px, one run, ±0.1"
        if method in _PROXY_PER_IMAGE:
            source += "; a proxy for each image: not comparable"
        found.append(Published(_name(method), source, _shares(scores)))
    return found + _by_method(results["state_of_the_art"], dataset, "published")


def _by_method(table: Mapping[str, object], dataset: str, source: str) -> list[Published]:
    return [
        Published(_name(method), source, _shares({"recall_at_1": scores[dataset]}))
        for method, scores in table.items()
        if isinstance(scores, Mapping) and dataset in scores
    ]


def _name(method: str) -> str:
    return _METHODS.get(method, method)


def _shares(percents: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) / 100 for name, value in percents.items()}
