"""The miners of pytorch-metric-learning by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.losses import loss_settings
from ctxtune.settings import Settings

if TYPE_CHECKING:
    from pytorch_metric_learning.miners import BaseMiner


@dataclass(frozen=True)
class MinerEntry:
    """A miner: its options and the name of its class in `pytorch_metric_learning.miners`."""

    options: type[Settings]
    class_name: str


MINERS: Mapping[str, MinerEntry] = {
    "distance_weighted": MinerEntry(loss_settings.DistanceWeightedSettings, "DistanceWeightedMiner"),
    "multi_similarity": MinerEntry(loss_settings.MultiSimilarityMinerSettings, "MultiSimilarityMiner"),
    "batch_hard": MinerEntry(loss_settings.NoOptions, "BatchHardMiner"),
    "batch_easy_hard": MinerEntry(loss_settings.BatchEasyHardSettings, "BatchEasyHardMiner"),
    "triplet_margin": MinerEntry(loss_settings.TripletMarginMinerSettings, "TripletMarginMiner"),
    "pair_margin": MinerEntry(loss_settings.PairMarginSettings, "PairMarginMiner"),
}


def build_miner(name: str, options: Mapping[str, object]) -> "BaseMiner":
    """A miner from its resolved settings."""
    from pytorch_metric_learning import miners

    miner: BaseMiner = getattr(miners, MINERS[name].class_name)(**options)
    return miner
