"""From settings to a loss: `build_loss` for code, `TrainingLoss` for the trainer."""

from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from ctxtune.error_messages import in_words
from ctxtune.losses.combined import CombinedLoss
from ctxtune.losses.contextual.loss import ContextualLoss
from ctxtune.losses.memory import ReferenceMemory
from ctxtune.losses.miners import build_miner
from ctxtune.losses.noise_filter import NoiseFilter
from ctxtune.losses.registry import LossEntry, Sizes, loss_entry
from ctxtune.losses.settings import LossSettings, RegularizerSettings


def build_loss(
    name: str,
    *,
    num_classes: int | None = None,
    embedding_dim: int | None = None,
    num_images: int | None = None,
    **options: object,
) -> nn.Module:
    """A loss by name, called as pytorch-metric-learning's: loss(embeddings, labels, indices_tuple, ref_emb, ref_labels).

    Args:
        name: one of `loss_names()`, or "package.module:Class" for a user's own.
        num_classes: number of training classes, labeled 0 ... num_classes - 1; needed by losses with proxies
            and by a noise filter.
        embedding_dim: width of the embeddings; needed by those, and by a memory.
        num_images: number of training images; needed by losses with `proxies="image"`.
        options: those of the loss (docs/losses.md), and for every loss: `miner`, `memory`, `noise_filter`,
            `contextual` (the term beside it), `regularizer_weight` (default 0, for contextual 0.1) and
            `similarity_target` (0.3).

    Raises:
        ValueError: an unknown name or option, a value out of its range, a combination that cannot be, or a size that
            is needed and not given.
    """
    weight = options.pop("regularizer_weight", 0.1 if name == "contextual" else 0.0)
    target = options.pop("similarity_target", 0.3)
    try:
        settings = LossSettings(name=name, **options)
        regularizer = RegularizerSettings(weight=weight, similarity_target=target)
    except ValidationError as error:
        raise ValueError(_plain_message(name, error)) from None
    combined = assemble(
        settings, regularizer, num_classes=num_classes, embedding_dim=embedding_dim, num_images=num_images
    )
    return combined if _combines(combined) else combined.loss


class TrainingLoss(nn.Module):
    """What a run minimizes: the loss of its settings plus the similarity regularizer.

    Proxies are among its parameters; a memory is part of its state_dict. On a GPU the contextual loss is recorded as
    CUDA graphs: a run's batches have one shape.

    Args:
        loss: the YAML block `loss`.
        regularizer: the YAML block `regularizer`.
        num_classes: labels are 0 ... num_classes - 1.
        embedding_dim: width of what the loss sees (the projector's where there is one).
        num_images: number of training images; needed by losses with `proxies: image`.

    Raises:
        ValueError: the settings cannot be combined.
    """

    def __init__(
        self,
        loss: LossSettings,
        regularizer: RegularizerSettings,
        *,
        num_classes: int,
        embedding_dim: int,
        num_images: int | None = None,
    ) -> None:
        super().__init__()
        self.loss = assemble(
            loss, regularizer, num_classes=num_classes, embedding_dim=embedding_dim, num_images=num_images
        )
        for part in self.loss.modules():
            # A filtered batch has another size each time, and graphs are recorded for one.
            if isinstance(part, ContextualLoss) and loss.noise_filter is None:
                part.use_cuda_graphs()

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total (float32 or float64, differentiable), and what to log, detached.

        Args:
            embeddings: (n, d), not normalized.
            labels: (n,) int64.

        Returns:
            The total; `loss` (the same, detached) and its unweighted terms `loss_contextual`, `loss_regularizer`, ...

        Raises:
            ValueError: the batch is too small for the loss.
        """
        total, terms = self.loss.weighted_terms(embeddings, labels)
        return total, {"loss": total.detach(), **{f"loss_{name}": value for name, value in terms.items()}}


def assemble(
    settings: LossSettings,
    regularizer: RegularizerSettings,
    *,
    num_classes: int | None,
    embedding_dim: int | None,
    num_images: int | None = None,
) -> CombinedLoss:
    """The loss of `settings` with all that goes with it.

    Raises:
        ValueError: proxies or a memory need a size that is not given.
    """
    entry = loss_entry(settings.name)
    if entry.proxies and (num_classes is None or embedding_dim is None):
        raise ValueError(f"loss {settings.name} holds a proxy for each class: it needs num_classes and embedding_dim")
    if settings.options().get("proxies") == "image" and num_images is None:
        raise ValueError(f"loss {settings.name} with proxies: image needs num_images")
    # The contextual loss has the similarities at hand. With a memory it would count remembered ones in, too.
    inside = settings.name == "contextual" and settings.memory is None
    sizes = Sizes(
        num_classes=num_classes,
        num_images=num_images,
        embedding_dim=embedding_dim,
        regularizer_weight=regularizer.weight,
        similarity_target=regularizer.similarity_target,
        takes_regularizer=inside,
    )
    loss = entry.build(settings.options(), sizes)
    miner = None if settings.miner is None else build_miner(settings.miner.name, settings.miner.options())
    if miner is not None and isinstance(loss, ContextualLoss) and not loss.terms.contrastive_weight:
        raise ValueError("a miner narrows the contrastive term, whose weight is 0: leave out `miner`")
    contextual = settings.contextual
    term, term_weight, other_weight = None, 0.0, 1.0
    if contextual is not None:
        term = ContextualLoss(1.0, 0.0, 0.0, **contextual.model_dump(exclude={"weight", "other_weight"}))
        term_weight = contextual.weight
        other_weight = 1.0 - term_weight if contextual.other_weight is None else contextual.other_weight
    return CombinedLoss(
        settings.name.rpartition(":")[2],
        loss,
        miner=miner,
        memory=_memory(settings, embedding_dim, miner),
        noise_filter=_noise_filter(settings, num_classes, embedding_dim),
        joint_memory=entry.memory == "joint",
        pairs_with_memory=_pairs_with_memory(entry, loss, miner),
        contextual=term,
        contextual_weight=term_weight,
        other_weight=other_weight,
        regularizer_weight=0.0 if inside else regularizer.weight,
        similarity_target=regularizer.similarity_target,
    )


def _memory(settings: LossSettings, embedding_dim: int | None, miner: nn.Module | None) -> ReferenceMemory | None:
    if settings.memory is None:
        return None
    if embedding_dim is None:
        raise ValueError("a memory needs embedding_dim")
    return ReferenceMemory(embedding_dim, settings.memory.size, settings.memory.start_step, miner)


def _noise_filter(settings: LossSettings, num_classes: int | None, embedding_dim: int | None) -> NoiseFilter | None:
    if settings.noise_filter is None:
        return None
    if num_classes is None or embedding_dim is None:
        raise ValueError("a noise filter needs num_classes and embedding_dim")
    return NoiseFilter(num_classes, embedding_dim, **settings.noise_filter.model_dump())


def _pairs_with_memory(entry: LossEntry, loss: nn.Module, miner: nn.Module | None) -> bool:
    return entry.takes_miner and (miner is not None or not getattr(loss, "leaves_out_copies", False))


def _combines(combined: CombinedLoss) -> bool:
    """Whether there is more to a combined loss than the loss itself."""
    parts = (combined.miner, combined.memory, combined.noise_filter, combined.contextual)
    return any(part is not None for part in parts) or bool(combined.regularizer_weight)


def _plain_message(name: str, error: ValidationError) -> str:
    found: dict[str, list[Any]] = {}
    for problem in error.errors(include_url=False):
        # Pydantic appends the branch of a union ("literal['remainder']") to the place: no option's name.
        place = ".".join(part for part in map(str, problem["loc"]) if part.isidentifier())
        found.setdefault(place, []).append(problem)
    told = [f"{place}: {in_words(problems)}" if place else in_words(problems) for place, problems in found.items()]
    return f"loss {name}: " + "; ".join(told)
