"""Heads on kept features of a frozen backbone: the same training as with the live one, and no image is opened."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ctxtune.config import TrialSettings
from ctxtune.data import EvaluationImages, TrainingImages, ValidationSettings, build_sampler, load_dataset
from ctxtune.data.features import BATCH, VIEW_SEED
from ctxtune.errors import CtxtuneError, DataError
from ctxtune.evaluation import read_checkpoint, restore_model
from ctxtune.losses import TrainingLoss
from ctxtune.models import ModelSettings, build_model
from ctxtune.training import FoldTrainer, confirmation_splits, fold_splits, save_checkpoint
from ctxtune.training.splits import RunSplits
from ctxtune.training.trainer import Trainer
from tests.helpers import trees

VALIDATION = ValidationSettings(folds=2)
CLASSES, IMAGES = 12, 4
_opened: list[str] = []
_listening: list[Path] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listening and str(arguments[0]).startswith(str(_listening[0])):
        _opened.append(str(arguments[0]))


sys.addaudithook(_listen)  # cannot be taken back; without a folder to listen for it does nothing


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Classes of pictures of different sizes, to train and to test on."""
    root = tmp_path / "photographs"
    for split, first in (("train", 0), ("test", CLASSES)):
        for label in range(first, first + CLASSES):
            for image in range(IMAGES):
                size = (40 + 3 * image, 50 - 2 * image)
                trees.write_image(root / split / f"class{label:02d}" / f"{image}.png", 100 * label + image, size)
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return new_weights(tmp_path / "weights.pth", 5)


def new_weights(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = build_model(ModelSettings(backbone="small_conv", width=8))
    for _ in range(2):  # statistics that are not those of the start
        model(torch.randn(8, 3, 32, 32))
    torch.save(model.backbone.state_dict(), path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def trial_on(root: Path, weights: Path | None, **blocks: Any) -> TrialSettings:
    tree: dict[str, Any] = {
        "dataset": {"name": "class_folders", "root": str(root)},
        "model": {
            "backbone": "small_conv",
            "width": 8,
            "embedding_dim": 8,
            "weights": None if weights is None else str(weights),
            "train": "head",
            "layer_norm": True,
        },
        "loss": {"name": "contextual"},
        "sampler": {"batch_size": 16, "images_per_class": 4},
        "optimizer": {"lr": 1e-2},
        "schedule": {"name": "constant", "epochs": 3},
        "image": {"train_crop": 24, "test_resize": 36, "test_crop": 32, "min_scale": 0.5},
        "evaluation": {"every": 1, "recall_at": [1, 2]},
    }
    for block, values in blocks.items():
        tree[block] = {**tree.get(block, {}), **values}
    return TrialSettings.model_validate(tree)


def splits_of(trial: TrialSettings, fold: int = 0, seed: int = 1) -> RunSplits:
    return fold_splits(trial, VALIDATION, fold, seed)


def open_run(trial: TrialSettings, cache: Path, *, fold: int = 0, seed: int = 1, **options: Any) -> FoldTrainer:
    return FoldTrainer(trial, splits_of(trial, fold, seed), seed=seed, cache_dir=cache, **options)


def trained(run: FoldTrainer) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    Trainer([run]).run(lambda report: reports.append(report.metrics))
    run.close()
    return reports


def head_of(run: FoldTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.trained_state().items()}


def trained_live(trial: TrialSettings, seed: int, views: list[torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The head after the same training in a plain loop, with the frozen backbone in every step."""
    splits = splits_of(trial, seed=seed)
    labels = torch.from_numpy(np.unique(splits.fit.labels, return_inverse=True)[1])
    images = EvaluationImages(splits.fit, trial.images, workers=0)
    center = torch.cat([batch for batch, _ in images.batches(7)])
    images.close()
    torch.manual_seed(seed)
    model = build_model(trial.model, image_size=trial.image_size)
    loss = TrainingLoss(trial.loss, trial.regularizer, num_classes=int(labels.max()) + 1, embedding_dim=8)
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(head, lr=1e-2, weight_decay=1e-4)
    sampler = build_sampler(trial.sampler, splits.fit.labels, splits.fit.super_labels, seed)
    for epoch in range(trial.schedule.epochs):
        for number, indices in enumerate(sampler.epoch(epoch)):
            seen = center[indices]
            if views is not None:
                which = np.random.default_rng((seed, epoch, number)).integers(len(views), size=len(indices))
                rows = splits.fit.rows[indices]
                seen = torch.stack([views[view][row] for view, row in zip(which, rows, strict=True)])
            optimizer.zero_grad()
            loss(model.project(model(seen)), labels[indices])[0].backward()
            optimizer.step()
    return model.trained_state()


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_training_on_kept_features_is_training_with_the_live_backbone(
    photographs: Path, weights: Path, cache: Path, noise: float
) -> None:
    trial = trial_on(photographs, weights, dataset={"label_noise": noise})
    run = open_run(trial, cache)
    trained(run)
    expected = trained_live(trial, seed=1)
    assert head_of(run).keys() == expected.keys() == {"embedding.weight", "embedding.bias"}
    for name, value in head_of(run).items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_augmented_views_are_kept_too(photographs: Path, weights: Path, cache: Path) -> None:
    trial = trial_on(photographs, weights, image={"views": 2})
    run = open_run(trial, cache)
    trained(run)
    whole = load_dataset(trial.dataset).train
    order = np.resize(np.arange(len(whole)), (-(-len(whole) // BATCH), BATCH))
    views = []
    from_files = trial.images.model_copy(update={"cache": "none"})
    for view in range(2):
        images = TrainingImages(whole, from_files, seed=VIEW_SEED, cache_dir=cache, workers=0)
        views.append(torch.cat([batch for batch, _ in images.batches(order, view)])[: len(whole)])
        images.close()
    assert not torch.equal(views[0], views[1])
    expected = trained_live(trial, 1, views)
    for name, value in head_of(run).items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_live_views_train_the_head_and_leave_the_backbone_alone(photographs: Path, weights: Path, cache: Path) -> None:
    run = open_run(trial_on(photographs, weights, image={"views": "live"}), cache)
    before = {name: value.clone() for name, value in run.model.backbone.state_dict().items()}
    trained(run)
    assert all(torch.equal(value, before[name]) for name, value in run.model.backbone.state_dict().items())
    assert not list(cache.glob("*features*"))


def test_no_image_is_opened_once_the_features_are_there(photographs: Path, weights: Path, cache: Path) -> None:
    first = trial_on(photographs, weights)
    open_run(first, cache).close()
    others = [
        trial_on(photographs, weights, dataset={"label_noise": 0.2}),
        trial_on(photographs, weights, sampler={"name": "random"}, model={"embedding_dim": 4}),
    ]
    _listening.append(photographs)
    try:
        for trial in others:
            for fold in (0, 1):
                trained(open_run(trial, cache, fold=fold, seed=2 + fold))
        assert not _opened
        assert not [folder for folder in cache.iterdir() if "test-features" in folder.name]
        trial = others[0]
        splits = confirmation_splits(trial, VALIDATION, 3)
        run = FoldTrainer(trial, splits, seed=3, cache_dir=cache)
        run.advance()
        assert not _opened, "the test part is opened when it is scored, not before"
        run.evaluate()
        assert len({path for path in _opened if path.endswith(".png")}) == CLASSES * IMAGES
        assert all("/test/" in path for path in _opened)
        run.close()
    finally:
        _listening.clear()
        _opened.clear()


def test_a_resumed_run_goes_on_bit_by_bit(photographs: Path, weights: Path, cache: Path) -> None:
    trial = trial_on(photographs, weights, image={"views": 3}, optimizer={"ema": 0.9})
    whole = open_run(trial, cache)
    trained(whole)
    first = open_run(trial, cache)
    first.advance(until=1)
    state = first.state_dict()
    second = open_run(trial, cache, load_pretrained=False)
    second.load_state_dict(state)
    trained(second)
    assert all(torch.equal(value, head_of(whole)[name]) for name, value in head_of(second).items())


def stores(cache: Path) -> list[Path]:
    return sorted(folder for folder in cache.glob("*features*") if folder.is_dir())


def test_features_are_made_once_and_again_where_they_are_damaged_or_stale(
    photographs: Path, weights: Path, cache: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    trial = trial_on(photographs, weights)

    def again() -> int:
        told.clear()
        open_run(trial, cache, reporter=lambda *report: told.append(report)).close()
        return len(told)

    assert again() == CLASSES * IMAGES
    assert told[-1] == ("features of class_folders/train", CLASSES * IMAGES, CLASSES * IMAGES)
    assert again() == 0
    (store,) = stores(cache)
    data = store / "data.bin"
    sound = data.read_bytes()
    data.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
    assert again() == CLASSES * IMAGES
    assert data.read_bytes() == sound
    data.write_bytes(sound[:-4])
    assert again() == CLASSES * IMAGES
    Image.new("RGB", (44, 44), (200, 30, 30)).save(photographs / "train" / "class00" / "0.png")
    assert again() == CLASSES * IMAGES
    assert data.read_bytes() != sound
    assert len(stores(cache)) == 1


@pytest.mark.parametrize(
    ("blocks", "made"),
    [
        ({"model": {"embedding_dim": 4}}, 0),
        ({"loss": {"name": "multi_similarity"}}, 0),
        ({"image": {"train_crop": 16, "flip": False}}, 0),
        ({"model": {"pooling": "average"}}, 1),
        ({"model": {"gem_power": 2.0}}, 1),
        ({"image": {"test_crop": 24}}, 1),
        ({"image": {"interpolation": "bicubic"}}, 1),
        ({"precision": "bfloat16"}, 1),
        ({"image": {"views": 2}}, 2),
    ],
    ids=str,
)
def test_what_changes_features_has_its_own_store(
    photographs: Path, weights: Path, cache: Path, blocks: dict[str, Any], made: int
) -> None:
    open_run(trial_on(photographs, weights), cache).close()
    precision = blocks.get("precision")
    trial = trial_on(photographs, weights, **{name: block for name, block in blocks.items() if name != "precision"})
    trial = trial if precision is None else trial.model_copy(update={"precision": precision})
    open_run(trial, cache).close()
    assert len(stores(cache)) == 1 + made


def test_weights_are_told_by_their_content(photographs: Path, weights: Path, cache: Path, tmp_path: Path) -> None:
    open_run(trial_on(photographs, weights), cache).close()
    copy = tmp_path / "elsewhere.pth"
    copy.write_bytes(weights.read_bytes())
    open_run(trial_on(photographs, copy), cache).close()
    assert len(stores(cache)) == 1
    new_weights(weights, 6)
    open_run(trial_on(photographs, weights), cache).close()
    assert len(stores(cache)) == 2


def test_unreadable_images_are_left_out_and_counted(photographs: Path, weights: Path, cache: Path) -> None:
    (photographs / "train" / "class03" / "2.png").write_bytes(b"no picture")
    for views in (None, 2):
        trial = trial_on(photographs, weights, dataset={"max_unreadable": 0.1}, image={"views": views})
        reports = trained(open_run(trial, cache))
        assert reports[-1]["data/unreadable_images"] == 1.0
        assert np.isfinite(reports[-1]["validation/map_at_r"])
    with pytest.raises(DataError, match=r"1 unreadable of 48 images.*\n.*class03/2.png"):
        open_run(trial_on(photographs, weights, image={"test_crop": 28}), cache)


def test_a_size_beyond_the_limit_is_refused_before_anything_is_computed(
    photographs: Path, weights: Path, cache: Path
) -> None:
    with pytest.raises(DataError, match=r"features of class_folders/train: .*image.cache_limit_gib.*views=live"):
        open_run(trial_on(photographs, weights, image={"cache_limit_gib": 1e-6}), cache)
    assert not stores(cache)


def test_a_checkpoint_holds_the_head_and_is_restored_with_its_backbone(
    photographs: Path, weights: Path, cache: Path, tmp_path: Path
) -> None:
    trial = trial_on(photographs, weights)
    run = open_run(trial, cache)
    trainer = Trainer([run], protocol={"validation": VALIDATION.model_dump(mode="json"), "folds": [0]})
    trainer.run(lambda report: None)
    save_checkpoint(trainer.state_dict(), tmp_path / "best.pt")
    assert (tmp_path / "best.pt").stat().st_size < weights.stat().st_size
    model = restore_model(read_checkpoint(tmp_path / "best.pt", []))
    images = EvaluationImages(run.splits.query, trial.images, workers=0)
    scored = run.model.eval()
    features = build_model(trial.model).eval()
    with torch.no_grad():
        for batch, _ in images.batches(8):
            assert torch.allclose(model(batch), scored(features.features(batch)), atol=1e-5)
    images.close()
    new_weights(weights, 6)
    with pytest.raises(CtxtuneError, match="frozen weights of other content"):
        restore_model(read_checkpoint(tmp_path / "best.pt", []))


def test_a_backbone_without_weights_is_the_same_in_all_runs(photographs: Path, cache: Path) -> None:
    trial = trial_on(photographs, None)
    first, second = (open_run(trial, cache, seed=seed) for seed in (1, 2))
    assert len(stores(cache)) == 1
    assert not torch.equal(first.model.embedding.weight, second.model.embedding.weight)


def test_heads_train_in_bfloat16(photographs: Path, weights: Path, cache: Path) -> None:
    trial = trial_on(photographs, weights).model_copy(update={"precision": "bfloat16"})
    reports = trained(open_run(trial, cache))
    assert np.isfinite(reports[-1]["train/loss"])
    assert reports[-1]["validation/map_at_r"] == pytest.approx(
        trained(open_run(trial_on(photographs, weights), cache))[-1]["validation/map_at_r"], abs=0.1
    )


@pytest.mark.gpu
@pytest.mark.parametrize("views", [None, 2])
def test_heads_train_with_features_in_gpu_memory(
    photographs: Path, weights: Path, cache: Path, views: int | None
) -> None:
    trial = trial_on(photographs, weights, image={"views": views}).model_copy(
        update={"precision": "float32", "tf32": False}
    )
    on_cpu = open_run(trial, cache / "cpu")
    trained(on_cpu)
    on_gpu = open_run(trial, cache / "gpu", device="cuda")
    batch, _ = next(on_gpu._images.batches(np.arange(8)[None], 0))
    assert batch.device.type == "cuda"
    assert all(values.device.type == "cuda" for values in on_gpu._images._values)
    trained(on_gpu)
    for name, value in head_of(on_gpu).items():
        assert torch.allclose(value.cpu(), head_of(on_cpu)[name], atol=2e-2), name
    for precision in ("bfloat16", "float16"):
        half = trial.model_copy(update={"precision": precision, "compile": True})
        assert np.isfinite(trained(open_run(half, cache / "gpu", device="cuda"))[-1]["train/loss"])
