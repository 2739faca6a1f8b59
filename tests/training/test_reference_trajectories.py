"""Our trainer follows the authors' training loop step by step.

`tests/fixtures/trainer/*.json` were recorded from the released 224 px trainer of Liao et al. (ICML 2023), executed in
float64 on a CPU over made images and a ResNet-18: per step the images, the loss before the step, the learning rates of
the groups, and sum and Euclidean norm of tensors after it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from ctxtune.config import TrialSettings
from ctxtune.data.split import make_split
from ctxtune.models import EmbeddingModel, build_model
from ctxtune.training import FoldTrainer
from ctxtune.training.splits import RunSplits

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "trainer"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))
TOLERANCE = 1e-9


def filled(shape: torch.Size, name: str, seed: int) -> Tensor:
    """A tensor of that name, as the recording filled it."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if noise.dim() >= 2:
        return noise * (2 / noise[0].numel()) ** 0.5
    return 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise


def resnet18_state() -> dict[str, Tensor]:
    model = torchvision.models.resnet18(weights=None).double()
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.data.copy_(filled(parameter.shape, name, 10_000 + number))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.randn(32, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        model.train()(p + 0.7 * q)
    return model.state_dict()


def made_images(case: dict[str, Any]) -> tuple[Tensor, np.ndarray]:
    labels = np.arange(case["classes"] * case["images_per_class"]) // case["images_per_class"]
    generator = torch.Generator().manual_seed(1)
    shape = (3, case["size"], case["size"])
    prototypes = torch.randn(case["classes"], *shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), *shape, generator=generator, dtype=torch.float64)
    return prototypes[torch.from_numpy(labels)] + 0.7 * noise, labels


class RecordedImages:
    """The recorded batches in place of a sampler and of images read from files."""

    def __init__(self, case: dict[str, Any], images: Tensor) -> None:
        self._images = images
        steps = case["steps"]
        self._epochs = {e: np.array([s["images"] for s in steps if s["epoch"] == e]) for e in range(case["epochs"])}
        self.batches_per_epoch = len(self._epochs[0])
        self.unreadable: list[str] = []

    def epoch(self, epoch: int) -> np.ndarray:
        return self._epochs[epoch]

    def batches(self, order: np.ndarray, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in order:
            chosen = torch.from_numpy(indices)
            yield self._images[chosen], chosen

    def close(self) -> None:
        pass


class RecordedTrainer(FoldTrainer):
    """A FoldTrainer in float64 over the recorded weights, images and batches, which notes what each step did."""

    def __init__(self, case: dict[str, Any], trial: TrialSettings) -> None:
        self.case = case
        images, labels = made_images(case)
        self.recorded = RecordedImages(case, images)
        split = make_split("made", None, [str(index) for index in range(len(labels))], labels)  # type: ignore[arg-type]
        super().__init__(trial, RunSplits(split, split, None, "validation"), seed=0)
        self._sampler = self.recorded
        self._fill_head()
        self.losses: list[float] = []
        self.learning_rates: list[list[float]] = []
        self.tensors: list[dict[str, list[float]]] = []
        self._take_step = self.step
        self.step = self._noting_step  # type: ignore[assignment]
        for name in ("prepare", "seed", "finite"):
            setattr(self._noting_step.__func__, name, getattr(self._take_step, name))

    def _build_model(self, load_pretrained: bool) -> EmbeddingModel:
        model = build_model(self.trial.model, load_pretrained=False).double()
        state = resnet18_state()
        model.backbone.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
        return model

    def _open_images(self) -> Any:
        return self.recorded

    def head(self) -> dict[str, Tensor]:
        tensors = {f"embedding.{name}": value for name, value in self.model.embedding.named_parameters()}
        if self.model.projector is not None:
            tensors["projector.weight"] = self.model.projector.weight
        proxies = [value for name, value in self.loss.named_parameters() if name.endswith("proxies")]
        return tensors | ({"proxies": proxies[0]} if proxies else {})

    def _fill_head(self) -> None:
        self.loss.double()
        for number, (name, tensor) in enumerate(sorted(self.head().items())):
            tensor.data.copy_(filled(tensor.shape, name, 20_000 + number))

    def _noting_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms = self._take_step(images, labels)
        self.losses.append(float(terms["loss"]))
        self.learning_rates.append([float(group["lr"]) for group in self.optimizer.param_groups])
        known = dict(self.model.backbone.named_parameters()) | self.head()
        wanted = self.case["steps"][len(self.losses) - 1]["after"]
        self.tensors.append(
            {name: [known[name].detach().sum().item(), known[name].detach().norm().item()] for name in wanted}
        )
        return terms


def trial_of(case: dict[str, Any], **changes: Any) -> TrialSettings:
    settings = case["settings"]
    by_image = settings["loss"]["name"] == "proxy_anchor" and not case["proxies_by_class"]
    loss = settings["loss"] | ({"proxies": "image"} if by_image else {})
    tree = {
        "dataset": {"name": "glyphs"},
        "model": {
            "backbone": "resnet18",
            "pooling": "gem",
            "embedding_dim": 512,
            "projector_dim": settings["proj"],
            "batch_norm": settings["bn"],
        },
        "loss": loss,
        "regularizer": {"weight": settings["reg"], "similarity_target": 0.3},
        "sampler": {"batch_size": case["batch"], "images_per_class": 4},
        "optimizer": {"name": "adamw", "lr": settings["lr"], "weight_decay": case["weight_decay"]},
        "schedule": {
            "name": "step",
            "epochs": case["epochs"],
            "step_epochs": case["step_epochs"],
            "factor": case["factor"],
            "head_warmup_epochs": settings["warm"],
        },
        "image": {"train_crop": case["size"], "cache": "none"},
        "precision": "float32",
    }
    for path, value in changes.items():
        block, key = path.split("__")
        tree[block] = {**tree[block], key: value}
    return TrialSettings.model_validate(tree)


def departure(case: dict[str, Any], trial: TrialSettings, steps: int) -> float:
    """The largest difference to the recording over the first steps, relative where a number is above 1."""
    trainer = RecordedTrainer(case, trial)
    trainer.recorded._epochs = {
        epoch: batches[: max(0, steps - 3 * epoch)] for epoch, batches in trainer.recorded._epochs.items()
    }
    for epoch in range(case["epochs"]):
        if len(trainer.recorded.epoch(epoch)):
            trainer.advance(until=epoch + 1)
    assert len(trainer.losses) == steps
    worst = 0.0
    for step, loss, rates, tensors in zip(
        case["steps"], trainer.losses, trainer.learning_rates, trainer.tensors, strict=False
    ):
        published = sorted(step["learning_rates"])
        if case["settings"]["proj"] is None:  # their group of the projector is there, and empty
            published.pop()
        pairs = [(loss, step["loss"]), *zip(sorted(rates), published, strict=True)]
        pairs += [
            (ours, theirs)
            for name, values in step["after"].items()
            for ours, theirs in zip(tensors[name], values, strict=True)
        ]
        worst = max(worst, *(abs(ours - theirs) / max(1.0, abs(theirs)) for ours, theirs in pairs))
    return worst


def case_of(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return case


@pytest.mark.parametrize("name", ["hybrid", "contrastive", "proxy_anchor_by_image"])
def test_the_first_step_is_the_authors(name):
    case = case_of(name)
    assert departure(case, trial_of(case), steps=1) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_trainer_follows_the_authors_loop(name):
    case = case_of(name)
    assert departure(case, trial_of(case), steps=len(case["steps"])) < TOLERANCE


@pytest.mark.parametrize(
    "mistake",
    [
        {"optimizer__lr_multipliers": {"projector": 1.0}},
        pytest.param({"model__batch_norm": "frozen_statistics"}, marks=pytest.mark.slow),
        pytest.param({"regularizer__similarity_target": 0.25}, marks=pytest.mark.slow),
    ],
    ids=["learning-rate multiplier", "batch norm", "target"],
)
def test_a_mistake_shows_at_the_first_step(mistake):
    case = case_of("hybrid")
    assert departure(case, trial_of(case, **mistake), steps=1) > 1000 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [{"schedule__step_epochs": 1}, {"schedule__factor": 0.5}], ids=["length", "factor"])
def test_a_mistake_in_the_schedule_shows_when_it_steps(mistake):
    case = case_of("hybrid_identity")
    assert departure(case, trial_of(case, **mistake), steps=7) > 1000 * TOLERANCE
