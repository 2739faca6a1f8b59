"""Every loss by name: its options, how it is built, and how it goes together with miners and memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ctxtune.imports import named_object
from ctxtune.losses import loss_settings
from ctxtune.losses.contextual.options import contrastive_weight_of
from ctxtune.settings import Settings
from ctxtune.text import did_you_mean

if TYPE_CHECKING:
    from torch import nn

LIBRARY = "pytorch_metric_learning.losses"
Build = Callable[[Mapping[str, Any], "Sizes"], "nn.Module"]
"""From the resolved options and the sizes to a module. torch is imported only here, when a loss is built: files are read, and
their mistakes told, without."""


@dataclass(frozen=True)
class Sizes:
    """What a loss must know beyond its options.

    Attributes:
        num_classes: number of training classes, labeled 0 ... num_classes - 1; None where it is not known.
        num_images: number of training images, for losses with a proxy for each; None where it is not known.
        embedding_dim: width of the embeddings; None where it is not known.
        regularizer_weight, similarity_target: of the similarity regularizer.
        takes_regularizer: whether a loss that can is to compute the regularizer itself.
    """

    num_classes: int | None = None
    num_images: int | None = None
    embedding_dim: int | None = None
    regularizer_weight: float = 0.0
    similarity_target: float = 0.3
    takes_regularizer: bool = False


@dataclass(frozen=True)
class LossEntry:
    """One named loss.

    Attributes:
        options: the model of its options.
        build: from the resolved options and the sizes to a module that is called with
            (embeddings, labels, indices_tuple, ref_emb, ref_labels).
        source: paper.
        origin: whose code computes it.
        proxies: how many proxies or centers it holds, in words; None where it has none. Those that have some need
            num_classes and embedding_dim.
        trainable: whether it may have parameters of its own that are no proxies.
        takes_miner: whether an indices_tuple means anything to it.
        memory: "reference", where it compares the batch with a reference set; "joint", where remembered embeddings
            join the batch.
        miner: the miner it has by default.
    """

    options: type[Settings]
    build: Build
    source: str
    origin: str = "pytorch-metric-learning"
    proxies: str | None = None
    trainable: bool = False
    takes_miner: bool = True
    memory: Literal["reference", "joint"] = "reference"
    miner: str | None = None


def _class(name: str, module: str) -> Callable[..., "nn.Module"]:
    return cast(Callable[..., "nn.Module"], named_object(f"{module}:{name}", "a loss"))


def _plain(name: str, module: str = LIBRARY) -> Build:
    return lambda options, sizes: _class(name, module)(**options)


def _with_proxies(name: str, module: str = LIBRARY) -> Build:
    def build(options: Mapping[str, object], sizes: Sizes) -> "nn.Module":
        others = {key: value for key, value in options.items() if key != "proxies"}
        count = sizes.num_images if options.get("proxies") == "image" else sizes.num_classes
        return _class(name, module)(num_classes=count, embedding_size=sizes.embedding_dim, **others)

    return build


def _contextual(options: Mapping[str, Any], sizes: Sizes) -> "nn.Module":
    from ctxtune.losses.contextual.loss import ContextualLoss

    weight = contrastive_weight_of(
        options["contextual_weight"], options["contrastive_weight"], sizes.regularizer_weight
    )
    regularizer_weight = sizes.regularizer_weight if sizes.takes_regularizer else 0.0
    return ContextualLoss(
        **{**options, "contrastive_weight": weight},
        regularizer_weight=regularizer_weight,
        similarity_target=sizes.similarity_target,
    )


def _soft_triple(options: Mapping[str, object], sizes: Sizes) -> "nn.Module":
    return _class("SoftTripleLoss", LIBRARY)(
        num_classes=sizes.num_classes,
        embedding_size=sizes.embedding_dim,
        centers_per_class=options["centers_per_class"],
        la=options["scale"],
        gamma=options["temperature"],
        margin=options["margin"],
    )


def _proxy_nca_plus_plus(options: Mapping[str, Any], sizes: Sizes) -> "nn.Module":
    # The library's form has the positive proxy in the denominator, too, which is what the paper's ++ changes.
    scale = 1.0 / options["temperature"]
    return _class("ProxyNCALoss", LIBRARY)(sizes.num_classes, sizes.embedding_dim, softmax_scale=scale)


def _margin(options: Mapping[str, object], sizes: Sizes) -> "nn.Module":
    if options["learn_beta"] and sizes.num_classes is None:
        raise ValueError("loss margin with learn_beta holds a beta for each class: it needs num_classes")
    classes = sizes.num_classes if options["learn_beta"] else None
    return _class("MarginLoss", LIBRARY)(**options, num_classes=classes)


def _contrastive(options: Mapping[str, object], sizes: Sizes) -> "nn.Module":
    from pytorch_metric_learning.distances import CosineSimilarity

    margins = {"pos_margin": options["positive_margin"], "neg_margin": options["negative_margin"]}
    return _class("ContrastiveLoss", LIBRARY)(**margins, distance=CosineSimilarity())


_LOSSES: Mapping[str, LossEntry] = {
    "contextual": LossEntry(
        loss_settings.ContextualSettings, _contextual, "Liao et al., ICML 2023, arXiv 2210.01908", origin="ctxtune"
    ),
    "contrastive": LossEntry(loss_settings.ContrastiveSettings, _contrastive, "Hadsell et al., CVPR 2006"),
    "triplet": LossEntry(
        loss_settings.TripletSettings,
        _plain("TripletMarginLoss"),
        "Schroff et al., CVPR 2015; mining of Wu et al., ICCV 2017",
        miner="distance_weighted",
    ),
    "multi_similarity": LossEntry(
        loss_settings.MultiSimilaritySettings,
        _plain("MultiSimilarityLoss"),
        "Wang et al., CVPR 2019",
        miner="multi_similarity",
    ),
    "proxy_anchor": LossEntry(
        loss_settings.ProxyAnchorSettings,
        _with_proxies("ProxyAnchorLoss"),
        "Kim et al., CVPR 2020",
        proxies="one a class",
        memory="joint",
    ),
    "proxy_nca": LossEntry(
        loss_settings.ProxyNCASettings,
        _with_proxies("ProxyNCALoss"),
        "Movshovitz-Attias et al., ICCV 2017",
        proxies="one a class",
        memory="joint",
    ),
    "normalized_softmax": LossEntry(
        loss_settings.NormalizedSoftmaxSettings,
        _with_proxies("NormalizedSoftmaxLoss"),
        "Zhai & Wu, BMVC 2019",
        proxies="one a class",
        memory="joint",
    ),
    "cosface": LossEntry(
        loss_settings.CosFaceSettings,
        _with_proxies("CosFaceLoss"),
        "Wang et al., CVPR 2018",
        proxies="one a class",
        memory="joint",
    ),
    "arcface": LossEntry(
        loss_settings.ArcFaceSettings,
        _with_proxies("ArcFaceLoss"),
        "Deng et al., CVPR 2019",
        proxies="one a class",
        memory="joint",
    ),
    "sub_center_arcface": LossEntry(
        loss_settings.SubCenterArcFaceSettings,
        _with_proxies("SubCenterArcFaceLoss"),
        "Deng et al., ECCV 2020",
        proxies="`sub_centers` a class",
        memory="joint",
    ),
    "proxy_nca_plus_plus": LossEntry(
        loss_settings.ProxyNCAPlusPlusSettings,
        _proxy_nca_plus_plus,
        "Teh et al., ECCV 2020",
        proxies="one a class",
        memory="joint",
    ),
    "soft_triple": LossEntry(
        loss_settings.SoftTripleSettings,
        _soft_triple,
        "Qian et al., ICCV 2019",
        proxies="`centers_per_class`",
        memory="joint",
    ),
    "margin": LossEntry(
        loss_settings.MarginSettings,
        _margin,
        "Wu et al., ICCV 2017",
        trainable=True,
        miner="distance_weighted",
    ),
    "hist": LossEntry(
        loss_settings.HistSettings,
        _with_proxies("HistLoss", "ctxtune.losses.hypergraph"),
        "Lim et al., CVPR 2022",
        origin="ctxtune",
        proxies="a distribution a class, and a network",
        takes_miner=False,
        memory="joint",
    ),
    "potential_field": LossEntry(
        loss_settings.PotentialFieldSettings,
        _with_proxies("PotentialFieldLoss", "ctxtune.losses.potential_field"),
        "Bhatnagar & Ahuja, CVPR 2025, arXiv 2405.18560",
        origin="ctxtune",
        proxies="`proxies_per_class`",
        takes_miner=False,
        memory="joint",
    ),
    "hyperbolic": LossEntry(
        loss_settings.HyperbolicSettings,
        _plain("HyperbolicLoss", "ctxtune.losses.hyperbolic"),
        "Ermolov et al., CVPR 2022",
        origin="ctxtune",
    ),
    "recall_at_k": LossEntry(
        loss_settings.RecallAtKSettings,
        _plain("RecallAtKLoss", "ctxtune.losses.recall_at_k"),
        "Patel et al., CVPR 2022",
        origin="ctxtune",
        takes_miner=False,
        memory="joint",
    ),
    "roadmap": LossEntry(
        loss_settings.RoadmapSettings,
        _plain("RoadmapLoss", "ctxtune.losses.roadmap"),
        "Ramzi et al., NeurIPS 2021",
        origin="ctxtune",
        takes_miner=False,
    ),
    "sup_ap": LossEntry(
        loss_settings.SupAPSettings,
        _plain("SupAPLoss", "ctxtune.losses.average_precision"),
        "Ramzi et al., NeurIPS 2021",
        origin="ctxtune",
        takes_miner=False,
    ),
    "smooth_ap": LossEntry(
        loss_settings.SmoothAPSettings,
        _plain("SmoothAPLoss", "ctxtune.losses.average_precision"),
        "Brown et al., ECCV 2020",
        origin="ctxtune",
        takes_miner=False,
    ),
    "softbin_ap": LossEntry(
        loss_settings.SoftBinAPSettings,
        _plain("SoftBinAPLoss", "ctxtune.losses.average_precision"),
        "Revaud et al., ICCV 2019",
        origin="ctxtune",
        takes_miner=False,
    ),
    "fast_ap": LossEntry(
        loss_settings.FastAPSettings,
        _plain("FastAPLoss"),
        "Cakir et al., CVPR 2019",
        memory="joint",
        takes_miner=False,
    ),
    "ntxent": LossEntry(
        loss_settings.NTXentSettings, _plain("NTXentLoss"), "Sohn, NeurIPS 2016; Chen et al., ICML 2020"
    ),
    "n_pair": LossEntry(
        loss_settings.NoOptions, _plain("NPairsLoss"), "Sohn, NeurIPS 2016", memory="joint", takes_miner=False
    ),
    "supcon": LossEntry(loss_settings.SupConSettings, _plain("SupConLoss"), "Khosla et al., NeurIPS 2020"),
    "circle": LossEntry(loss_settings.CircleSettings, _plain("CircleLoss"), "Sun et al., CVPR 2020"),
}


def loss_names() -> tuple[str, ...]:
    """The names that `build_loss` knows, besides "package.module:Class"."""
    return tuple(_LOSSES)


def option_names() -> frozenset[str]:
    """The options of all losses."""
    return frozenset(name for entry in _LOSSES.values() for name in entry.options.model_fields)


def loss_entry(name: Any) -> LossEntry:
    """The loss of that name; "package.module:Class" is imported.

    Raises:
        ValueError: nobody knows the name, or the class cannot be imported or is no torch module.
    """
    if isinstance(name, str) and ":" in name:
        from ctxtune.losses.custom_loss import build_custom_loss, custom_loss_inputs, custom_loss_options

        inputs = custom_loss_inputs(name)
        return LossEntry(
            custom_loss_options(name),
            lambda options, sizes: build_custom_loss(name, options, sizes.num_classes, sizes.embedding_dim),
            source=name,
            origin="yours",
            takes_miner="indices_tuple" in inputs,
            memory="reference" if {"ref_emb", "ref_labels"} <= inputs else "joint",
        )
    if name not in _LOSSES:
        raise ValueError(
            f'unknown loss: {name!r}{did_you_mean(name, _LOSSES)}; a loss of your own is named "package.module:Class"'
        )
    return _LOSSES[name]
