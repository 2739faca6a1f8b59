"""The miners of pytorch-metric-learning by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_metric_learning import miners

from ctxtune.losses import loss_settings as choices
from ctxtune.settings import Settings


@dataclass(frozen=True)
class MinerEntry:
    """A miner: its options and its class."""

    options: type[Settings]
    build: Callable[..., miners.BaseMiner]


MINERS: Mapping[str, MinerEntry] = {
    "distance_weighted": MinerEntry(choices.DistanceWeightedSettings, miners.DistanceWeightedMiner),
    "multi_similarity": MinerEntry(choices.MultiSimilarityMinerSettings, miners.MultiSimilarityMiner),
    "batch_hard": MinerEntry(choices.NoOptions, miners.BatchHardMiner),
    "batch_easy_hard": MinerEntry(choices.BatchEasyHardSettings, miners.BatchEasyHardMiner),
    "triplet_margin": MinerEntry(choices.TripletMarginMinerSettings, miners.TripletMarginMiner),
    "pair_margin": MinerEntry(choices.PairMarginSettings, miners.PairMarginMiner),
}


def build_miner(name: str, options: Mapping[str, Any]) -> miners.BaseMiner:
    """A miner from its resolved settings."""
    return MINERS[name].build(**options)
