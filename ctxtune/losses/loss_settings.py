"""The options of every named loss, with the paper's settings as defaults where it gives them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.settings import Settings

Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class NoOptions(Settings):
    """A loss without options."""


class ContextualSettings(SimilarityOptions):
    """`contextual`: contextual and contrastive term. The regularizer is a block of its own."""

    contextual_weight: Weight = 0.8
    contrastive_weight: Weight | Literal["remainder"] | None = None
    positive_margin: Cosine = 0.75
    negative_margin: Cosine = 0.6

    @model_validator(mode="after")
    def _leave_something(self) -> "ContextualSettings":
        if self.contrastive_weight is None and self.contextual_weight > 1.0:
            raise ValueError("contextual_weight is above 1 and leaves contrastive_weight below 0: set that one too")
        return self


class ContextualTermSettings(SimilarityOptions):
    """`loss.contextual`: the contextual term beside any other loss.

    Attributes:
        weight: of the contextual term.
        other_weight: of the named loss; null = 1 - weight.
    """

    weight: Weight = 0.5
    other_weight: Weight | None = None

    @model_validator(mode="after")
    def _leave_something(self) -> "ContextualTermSettings":
        if self.other_weight is None and self.weight > 1.0:
            raise ValueError("weight is above 1 and leaves other_weight below 0: set that one too")
        return self


class MemorySettings(Settings):
    """`loss.memory`: cross-batch memory (Wang et al., CVPR 2020).

    Attributes:
        size: number of embeddings that are remembered; at least that of a batch.
        start_step: number of training steps before the memory is filled and used.
    """

    size: int = Field(1024, ge=1, le=10_000_000)
    start_step: int = Field(0, ge=0)


class NoiseFilterSettings(Settings):
    """`loss.noise_filter`: items with doubtful labels are left out of the batch (PRISM, Liu et al., CVPR 2021).

    Attributes:
        noise_rate: the share of wrong labels that is expected.
        window: number of batches over which the threshold is averaged.
        size: number of embeddings that are remembered for the centers of the classes.
    """

    noise_rate: float = Field(0.2, ge=0.0, lt=1.0)
    window: int = Field(30, ge=1, le=100_000)
    size: int = Field(8192, ge=1, le=10_000_000)


class ContrastiveSettings(Settings):
    """`contrastive`, with the margins of the authors' baseline."""

    positive_margin: Cosine = 0.9
    negative_margin: Cosine = 0.6


class TripletSettings(Settings):
    """`triplet`: margin on the distance of normalized embeddings."""

    margin: float = Field(0.05, ge=0.0, le=2.0)
    swap: bool = False
    smooth_loss: bool = False


class MultiSimilaritySettings(Settings):
    """`multi_similarity`."""

    alpha: Positive = 2.0
    beta: Positive = 50.0
    base: Cosine = 0.5


class ProxySettings(Settings):
    """What the losses with one proxy a class share.

    Attributes:
        proxies: "class", one for each class, as their papers say; "image", as many as there are training images, of
            which only the first num_classes ever have a positive: what the code of Liao et al. (ICML 2023) ran as
            its Proxy-Anchor and Proxy-NCA baselines at 224 px, because it takes the number of images for that of
            classes.
    """

    proxies: Literal["class", "image"] = "class"


class ProxyAnchorSettings(ProxySettings):
    """`proxy_anchor`."""

    margin: float = Field(0.1, ge=0.0, le=2.0)
    alpha: Positive = 32.0


class ProxyNCASettings(ProxySettings):
    """`proxy_nca`."""

    softmax_scale: Positive = 9.0


class NormalizedSoftmaxSettings(Settings):
    """`normalized_softmax`."""

    temperature: Positive = 0.05


class CosFaceSettings(Settings):
    """`cosface`: margin on the cosine."""

    margin: float = Field(0.35, ge=0.0, le=2.0)
    scale: Positive = 64.0


class ArcFaceSettings(Settings):
    """`arcface`: margin in degrees."""

    margin: float = Field(28.6, ge=0.0, lt=180.0)
    scale: Positive = 64.0


class SubCenterArcFaceSettings(ArcFaceSettings):
    """`sub_center_arcface`: several centers a class, of which the nearest counts."""

    sub_centers: int = Field(3, ge=1, le=100)


class ProxyNCAPlusPlusSettings(Settings):
    """`proxy_nca_plus_plus`: the temperature of the softmax over squared distances of unit vectors."""

    temperature: Positive = 1 / 9


class SoftTripleSettings(Settings):
    """`soft_triple`.

    Attributes:
        centers_per_class: 10 in the paper (2 for SOP).
        scale, temperature, margin: lambda, gamma and delta in the paper.
    """

    centers_per_class: int = Field(10, ge=1, le=1000)
    scale: Positive = 20.0
    temperature: Positive = 0.1
    margin: float = Field(0.01, ge=0.0, le=2.0)


class MarginSettings(Settings):
    """`margin`, on the distance of normalized embeddings.

    Attributes:
        margin, beta: positives are to be nearer than beta - margin, negatives farther than beta + margin.
        learn_beta: whether each class learns its own beta, from that start.
        nu: weight of the learned betas themselves.
    """

    margin: float = Field(0.2, ge=0.0, le=2.0)
    beta: float = Field(1.2, ge=0.0, le=2.0)
    learn_beta: bool = False
    nu: Weight = 0.0


class HistSettings(Settings):
    """`hist`: class distributions and a hypergraph network.

    Attributes:
        scale, hardness, network_weight: tau, alpha and lambda_s in the paper.
        network_width: of the network's hidden layer.
    """

    scale: Positive = 32.0
    hardness: Positive = 0.9
    network_weight: Weight = 1.0
    network_width: int = Field(512, ge=1, le=100_000)


class PotentialFieldSettings(Settings):
    """`potential_field` (PFML)."""

    proxies_per_class: int = Field(15, ge=1, le=1000)
    decay: float = Field(4.0, gt=0.0, le=20.0)
    radius: float = Field(0.2, ge=0.01, le=2.0)


class HyperbolicSettings(Settings):
    """`hyperbolic`: cross-entropy of pairs over distances in the Poincare ball."""

    temperature: Positive = 0.2
    curvature: float = Field(0.1, gt=0.0, le=4.0)
    clip_radius: float = Field(2.3, gt=0.0, le=10.0)


class RecallAtKSettings(Settings):
    """`recall_at_k`: the surrogate of Recall@k, and SiMix as `mixing`."""

    cutoffs: list[Annotated[int, Field(ge=1, le=100_000)]] = Field([1, 2, 4, 8, 16], min_length=1)
    rank_temperature: Positive = 0.01
    cutoff_temperature: Positive = 1.0
    mixing: bool = True


class SupAPSettings(Settings):
    """`sup_ap`: the smooth upper bound of 1 - average precision of ROADMAP (Ramzi et al., NeurIPS 2021)."""

    temperature: Positive = 0.01
    slope: Positive = 100.0
    offset: float = Field(1.44, ge=0.0)
    delta: Weight = 0.05
    start: Weight = 0.5


class RoadmapSettings(SupAPSettings):
    """`roadmap`: average_precision_weight * SupAP + (1 - that) * contrastive."""

    average_precision_weight: float = Field(0.5, ge=0.0, le=1.0)
    positive_margin: Cosine = 0.9
    negative_margin: Cosine = 0.6


class SmoothAPSettings(Settings):
    """`smooth_ap`."""

    temperature: Positive = 0.01


class SoftBinAPSettings(Settings):
    """`softbin_ap`."""

    bins: int = Field(20, ge=2)


class FastAPSettings(Settings):
    """`fast_ap`."""

    num_bins: int = Field(10, ge=2)


class NTXentSettings(Settings):
    """`ntxent`."""

    temperature: Positive = 0.07


class SupConSettings(Settings):
    """`supcon`."""

    temperature: Positive = 0.1


class CircleSettings(Settings):
    """`circle`."""

    m: float = Field(0.4, ge=0.0, le=1.0)
    gamma: Positive = 80.0


class DistanceWeightedSettings(Settings):
    """Miner `distance_weighted` (Wu et al., ICCV 2017)."""

    cutoff: Positive = 0.5
    nonzero_loss_cutoff: Positive = 1.4


class MultiSimilarityMinerSettings(Settings):
    """Miner `multi_similarity`."""

    epsilon: Weight = 0.1


class TripletMarginMinerSettings(Settings):
    """Miner `triplet_margin`."""

    margin: float = 0.2
    type_of_triplets: Literal["all", "hard", "semihard", "easy"] = "all"


class PairMarginSettings(Settings):
    """Miner `pair_margin`: positives beyond and negatives within a distance."""

    pos_margin: float = 0.2
    neg_margin: float = 0.8


class BatchEasyHardSettings(Settings):
    """Miner `batch_easy_hard`."""

    pos_strategy: Literal["easy", "semihard", "hard", "all"] = "easy"
    neg_strategy: Literal["easy", "semihard", "hard", "all"] = "semihard"
