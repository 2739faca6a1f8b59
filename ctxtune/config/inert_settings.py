"""Settings that a configuration does not read: an arm that changes one of them compares a run with itself."""

from collections.abc import Iterator

from ctxtune.config.paths import set_path
from ctxtune.config.trial import TrialSettings
from ctxtune.losses.contextual.options import contrastive_weight_of
from ctxtune.losses.registry import loss_entry
from ctxtune.yaml_text import Tree

_NEIGHBORHOODS = (
    "k", "epsilon", "slope", "step", "temperature", "conjunction", "overlap", "query_expansion",
    "detach_overlap_normalizer", "detach_expansion_normalizer",
)  # fmt: skip
_SUPERVISED_AP = ("temperature", "slope", "offset", "delta", "start")


def unused_settings(trial: TrialSettings) -> dict[str, str]:
    """The dotted paths of a configuration that have no effect on its run, each with the reason in words."""
    return dict(_unused(trial))


def effective_tree(trial: TrialSettings) -> Tree:
    """The configuration as plain data without what has no effect: two runs with equal trees are the same run.

    Where the data lies does not count, and a contrastive weight that follows from others is written out.
    """
    tree = trial.tree()
    tree["dataset"].pop("root", None)
    loss = tree["loss"]
    if loss["name"] == "contextual":
        weight = contrastive_weight_of(
            loss["contextual_weight"], loss["contrastive_weight"], tree["regularizer"]["weight"]
        )
        loss["contrastive_weight"] = round(weight, 9)  # 1 - 0.8 and 0.2 are the same weight
    for path in unused_settings(trial):
        set_path(tree, path, None)
    return tree


def _unused(trial: TrialSettings) -> Iterator[tuple[str, str]]:
    yield from _unused_of_loss(trial)
    if not trial.regularizer.weight:
        yield "regularizer.similarity_target", "regularizer.weight is 0"
    yield from _unused_of_optimizer(trial)
    yield from _unused_of_model_and_data(trial)
    for key in ("every", "recall_at", "batch_size"):
        yield f"evaluation.{key}", "it says what is scored on the way, not how the run trains"


def _unused_of_loss(trial: TrialSettings) -> Iterator[tuple[str, str]]:
    options = trial.loss.options()
    if trial.loss.name == "contextual":
        regularizer = trial.regularizer.weight
        contrastive = contrastive_weight_of(options["contextual_weight"], options["contrastive_weight"], regularizer)
        if not contrastive:
            for key in ("positive_margin", "negative_margin"):
                yield f"loss.{key}", "the contrastive term has weight 0"
        yield from _unused_of_similarity("loss", options, options["contextual_weight"], "loss.contextual_weight is 0")
    if trial.loss.contextual is not None:
        term = trial.loss.contextual.model_dump()
        yield from _unused_of_similarity("loss.contextual", term, term["weight"], "loss.contextual.weight is 0")
    if trial.loss.name == "roadmap":
        share = options["average_precision_weight"]
        if share == 0:
            yield from ((f"loss.{key}", "loss.average_precision_weight is 0") for key in _SUPERVISED_AP)
        if share == 1:
            margins = ("positive_margin", "negative_margin")
            yield from ((f"loss.{key}", "loss.average_precision_weight is 1") for key in margins)


def _unused_of_similarity(
    block: str, options: Tree, weight: float, weightless: str
) -> Iterator[tuple[str, str]]:  # fmt: skip
    if not weight:
        yield from ((f"{block}.{key}", weightless) for key in _NEIGHBORHOODS)
        return
    if options["step"] == "heuristic":
        yield f"{block}.temperature", f"{block}.step is heuristic; the temperature is that of the sigmoid"
    else:
        yield f"{block}.slope", f"{block}.step is sigmoid; the slope is that of the heuristic step"
    if options["overlap"] == "none":
        yield f"{block}.detach_overlap_normalizer", f"{block}.overlap is none"
    if not options["query_expansion"]:
        yield f"{block}.detach_expansion_normalizer", f"{block}.query_expansion is false"
    if options["overlap"] == "none" and not options["query_expansion"]:
        yield f"{block}.conjunction", "there is neither overlap nor query expansion, hence no conjunction"


def _unused_of_optimizer(trial: TrialSettings) -> Iterator[tuple[str, str]]:
    optimizer, schedule = trial.optimizer, trial.schedule
    if optimizer.name in ("adamw", "adam"):
        yield "optimizer.momentum", f"optimizer.name is {optimizer.name}; momentum is that of sgd"
    if trial.model.projector_dim is None:
        yield "optimizer.lr_multipliers.projector", "there is no projector"
    entry = loss_entry(trial.loss.name)
    if not entry.proxies and not entry.trainable and entry.origin != "yours":
        yield "optimizer.lr_multipliers.loss", f"loss {trial.loss.name} has no parameters of its own"
    readers = {"step_epochs": ("step",), "factor": ("step", "multistep"), "milestones": ("multistep",)}
    for key, names in readers.items():
        if schedule.name not in names:
            yield f"schedule.{key}", f"schedule.name is {schedule.name}"


def _unused_of_model_and_data(trial: TrialSettings) -> Iterator[tuple[str, str]]:
    if trial.model.train != "head":
        yield "image.views", "it is for model.train: head"
    elif trial.image.views is None:
        for key in ("train_crop", "min_scale", "max_scale", "ratio", "flip", "train_resize"):
            yield f"image.{key}", "model.train is head and image.views null: it trains on the test views"
    if trial.model.train == "head":
        yield "model.batch_norm", "model.train is head: the backbone is frozen as a whole"
        yield "optimizer.lr_multipliers.backbone", "model.train is head"
        yield "optimizer.layer_decay", "model.train is head"
        yield "schedule.head_warmup_epochs", "model.train is head: nothing else trains anyway"
    if trial.model.pooling != "gem":
        yield from (
            (f"model.{key}", f"model.pooling is {trial.model.pooling}") for key in ("gem_power", "gem_trainable")
        )
    if not trial.model.layer_norm:
        yield "model.layer_norm_affine", "model.layer_norm is false"
    if not trial.dataset.label_noise:
        yield "dataset.label_noise_kind", "dataset.label_noise is 0"
    if trial.sampler.name == "random":
        yield from ((f"sampler.{key}", "sampler.name is random") for key in ("images_per_class", "classes_per_round"))
