"""The miners of pytorch-metric-learning by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytorch_metric_learning import miners

from ctxtune.losses import loss_settings
from ctxtune.settings import Settings


@dataclass(frozen=True)
class MinerEntry:
    """A miner: its options and its class."""

    options: type[Settings]
    build: Callable[..., miners.BaseMiner]


MINERS: Mapping[str, MinerEntry] = {
    "distance_weighted": MinerEntry(loss_settings.DistanceWeightedSettings, miners.DistanceWeightedMiner),
    "multi_similarity": MinerEntry(loss_settings.MultiSimilarityMinerSettings, miners.MultiSimilarityMiner),
    "batch_hard": MinerEntry(loss_settings.NoOptions, miners.BatchHardMiner),
    "batch_easy_hard": MinerEntry(loss_settings.BatchEasyHardSettings, miners.BatchEasyHardMiner),
    "triplet_margin": MinerEntry(loss_settings.TripletMarginMinerSettings, miners.TripletMarginMiner),
    "pair_margin": MinerEntry(loss_settings.PairMarginSettings, miners.PairMarginMiner),
}


def build_miner(name: str, options: Mapping[str, object]) -> miners.BaseMiner:
    """A miner from its resolved settings."""
    return MINERS[name].build(**options)
