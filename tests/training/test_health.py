"""What may go wrong in a run, and what is normal: overflowing gradients, unreadable images, proxies in head warm-up."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from ctxtune.config import TrialSettings, with_values
from ctxtune.data import ValidationSettings
from ctxtune.errors import DataError, RunFailed
from ctxtune.training import FoldTrainer, fold_splits
from ctxtune.training.health import FiniteFlag, check_embeddings, memory_errors_named
from tests.helpers.training import (
    TREE,
    equal,
    few_classes,
    first_batch,
    losses_of,
    reports_of,
    run_of,
    small_splits,
    trial_of,
    weights,
)


@pytest.fixture(scope="module")
def splits():
    return small_splits()


def test_gradients_that_overflow_under_loss_scaling_are_normal_and_leave_the_step_out(splits):
    run = run_of(splits, trial_of(precision="float16"))
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 2.0**60})
    before = weights(run)
    run.step(*first_batch(run))
    after = weights(run)
    trained = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    assert all(torch.equal(before[name], after[name]) for name in trained)
    assert run.scaler.get_scale() == 2.0**59
    run.step.finite.check(0)


@pytest.mark.parametrize("scale", [*(pytest.param(2.0**power, marks=pytest.mark.slow) for power in (10, 16)), 2.0**40])
def test_float16_with_scaling_trains_as_float32_does(splits, scale):
    """From a scale at which nothing overflows, from PyTorch's own, at which it depends, and from one at which all does."""
    exact, half = run_of(splits), run_of(splits, trial_of(precision="float16"))
    half.scaler.load_state_dict({**half.scaler.state_dict(), "scale": scale})
    losses = [losses_of(run) for run in (exact, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert losses[0][-1] < losses[0][0]
    assert half.scaler.get_scale() == scale or scale >= 2.0**16


def test_a_loss_scale_below_one_ends_the_run(splits):
    run = run_of(splits, trial_of(precision="float16"))
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 0.25})
    with pytest.raises(RunFailed, match="bfloat16") as caught:
        run.advance()
    assert caught.value.reason == "loss_scale"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_flag_remembers_one_bad_step(bad):
    flag = FiniteFlag(torch.device("cpu"))
    for loss, embedding in ((1.0, 1.0), (1.0, bad), (1.0, 1.0)):
        flag.update(torch.tensor(loss), torch.tensor([[1.0, embedding]]))
    with pytest.raises(RunFailed, match="epoch 3"):
        flag.check(2)


def test_memory_errors_name_the_setting_and_what_to_change():
    expected = r"sampler\.batch_size 512.*micro_batch.*Tried to allocate"
    with pytest.raises(RunFailed, match=expected) as caught, memory_errors_named("sampler.batch_size", 512):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more lines")
    assert caught.value.reason == "out_of_memory"
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_BACKEND_OPERATION: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_errors_without_a_class_of_their_own_are_known_by_their_text(said):
    with (
        pytest.raises(RunFailed, match=r"sampler\.batch_size 32") as caught,
        memory_errors_named("sampler.batch_size", 32),
    ):
        raise RuntimeError(said)
    assert caught.value.reason == "out_of_memory" and said.splitlines()[0] in str(caught.value)


def test_other_errors_of_the_device_are_left_alone():
    with pytest.raises(RuntimeError, match="illegal") as caught, memory_errors_named("sampler.batch_size", 32):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    assert not isinstance(caught.value, RunFailed)


def test_a_model_too_large_for_the_memory_ends_the_run_with_its_reason(splits):
    # More than any machine's address space, and than a file may ask for: real memory is not touched.
    trial = trial_of()
    trial = trial.model_copy(update={"model": trial.model.model_copy(update={"embedding_dim": 2**40})})
    with pytest.raises(RunFailed, match=r"model\.backbone small_conv; take a smaller one, or more") as caught:
        run_of(splits, trial)
    assert caught.value.reason == "out_of_memory"


def test_collapse_is_seen_whatever_the_length_of_the_embeddings():
    direction = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RunFailed, match="same way"):
        check_embeddings(direction * torch.rand(20, 1) + 1e-6, 3)
    check_embeddings(torch.randn(20, 8), 3)


def test_unreadable_images_are_left_out_of_the_scores_and_do_not_shift_the_others(tmp_path):
    trial = picture_trial(tmp_path, unreadable=0.2)
    splits = fold_splits(trial, ValidationSettings(folds=2), 0, seed=0)
    whole = FoldTrainer(trial, splits, seed=1, cache_dir=tmp_path / "cache").evaluate()
    broken = splits.query.rows[[1, 6]]
    for row in broken:
        (tmp_path / "data" / splits.query.table.paths[int(row)]).write_bytes(b"no picture")
    readable = splits.query.select(np.setdiff1d(np.arange(len(splits.query)), [1, 6]), "readable")
    run = FoldTrainer(trial, splits, seed=1, cache_dir=tmp_path / "cache")
    expected = run.score_splits(readable, None)
    scores = run.evaluate()
    assert scores["validation/map_at_r"] == pytest.approx(expected.map_at_r, abs=1e-9) != whole["validation/map_at_r"]
    for row in splits.query.rows:
        (tmp_path / "data" / splits.query.table.paths[int(row)]).write_bytes(b"no picture")
    with pytest.raises(DataError, match="unreadable"):
        FoldTrainer(trial, splits, seed=1, cache_dir=tmp_path / "cache2").evaluate()


@pytest.mark.parametrize("name", ["proxy_anchor", "normalized_softmax"])
def test_during_head_warm_up_proxies_and_head_move_and_the_backbone_does_not(splits, name):
    run = run_of(splits, trial_of(loss={"name": name}, schedule__head_warmup_epochs=1, evaluation__every=1))
    before, proxies = weights(run), [p.detach().clone() for p in run.loss.parameters()]
    run.advance()
    frozen = [key for key, _ in run.model.backbone.named_parameters(prefix="backbone")]
    assert equal({k: before[k] for k in frozen}, {k: weights(run)[k] for k in frozen})
    assert not torch.equal(before["embedding.weight"], run.model.embedding.weight)
    assert all(not torch.equal(old, new) for old, new in zip(proxies, run.loss.parameters(), strict=True))
    run.advance()
    assert not equal({k: before[k] for k in frozen}, {k: weights(run)[k] for k in frozen})


def test_a_run_to_the_end_with_bfloat16_learns(splits):
    last = reports_of(run_of(splits, trial_of(precision="bfloat16")))[-1]
    assert np.isfinite(list(last.values())).all()


def picture_trial(folder, unreadable: float) -> TrialSettings:
    """Class folders of small pictures, read from files each time."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(8):
            for number in range(6):
                file = folder / "data" / split / f"{split}{label}" / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 80, (40, 40, 3)) + 20 * label
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return TrialSettings.model_validate(
        {
            **TREE,
            "dataset": {"name": "class_folders", "root": str(folder / "data"), "max_unreadable": unreadable},
            "image": {"train_crop": 32, "test_resize": 32, "test_crop": 32, "cache": "none", "workers": 0},
            "sampler": {"batch_size": 8, "batches_per_epoch": 2},
            "evaluation": {"every": 2, "batch_size": 4, "recall_at": [1, 2]},
        }
    )


def test_a_run_reads_its_images_by_as_many_threads_as_its_share_of_cores_allows(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxtune.data.images.processors", lambda: 64)  # as on a large machine, shared with other runs
    trial = with_values(picture_trial(tmp_path, unreadable=0.0), {"image.workers": None})
    run = FoldTrainer(trial, fold_splits(trial, ValidationSettings(folds=2), 0, seed=0), seed=1, cores=4)
    run.advance()
    run.evaluate()
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("images_")}
    run.close()
    # Half of the cores on a CPU, for training and for scoring, which take turns.
    assert names and names <= {"images_0", "images_1"}


def test_a_training_batch_goes_on_without_its_unreadable_image(tmp_path):
    trial = picture_trial(tmp_path, unreadable=0.2)
    splits = fold_splits(trial, ValidationSettings(folds=2), 0, seed=0)
    (tmp_path / "data" / splits.fit.table.paths[int(splits.fit.rows[3])]).write_bytes(b"no picture")
    run = FoldTrainer(trial, splits, seed=1, cache_dir=tmp_path / "cache")
    assert run.advance()["train/steps"] == 4
    assert few_classes(splits.fit, 2).labels.size == 12


@pytest.mark.parametrize(
    "miner", ["distance_weighted", "multi_similarity", "batch_hard", "batch_easy_hard", "triplet_margin", "pair_margin"]
)
@pytest.mark.parametrize("loss", ["triplet", "multi_similarity", "contextual"])
@pytest.mark.parametrize("memory", [None, {"size": 64}])
def test_a_run_that_diverges_ends_with_its_reason_whoever_meets_it_first(splits, loss, miner, memory):
    """Miners sort and draw by distances, and some of them fail on what is not a number before the flag is read."""
    run = run_of(splits, trial_of(loss={"name": loss, "miner": miner, "memory": memory}))
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(RunFailed) as caught:
        run.advance()
    assert caught.value.reason == "non_finite" and "epoch 1" in str(caught.value)
    run.close()


def test_an_error_of_a_loss_on_sound_embeddings_stays_what_it_is(splits):
    run = run_of(splits)

    def fails(embeddings, labels):
        raise IndexError("of one's own")

    run.step.loss.forward = fails
    with pytest.raises(IndexError, match="of one's own"):
        run.advance()
    run.close()


def test_a_loss_that_refuses_the_batch_says_so(splits):
    run = run_of(splits, trial_of(loss={"name": "contextual", "k": 1000}))
    with pytest.raises(RunFailed, match="fewer than k = 1000") as caught:
        run.time_step()
    assert caught.value.reason == "error"
    run.close()
