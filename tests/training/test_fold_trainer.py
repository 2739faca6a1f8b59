"""One run through its public interface: it learns, it repeats itself bit by bit, it goes on where it was cut off."""

import os

import numpy as np
import pytest
import torch

from ctxtune.config import with_values
from ctxtune.data import load_dataset, split
from ctxtune.errors import CtxtuneError, RunFailed
from ctxtune.training import (
    CheckpointFolder,
    confirmation_splits,
    fold_splits,
    load_checkpoint,
    save_checkpoint,
)
from ctxtune.training.splits import RunSplits
from ctxtune.training.trainer import Trainer
from tests.helpers.training import TRIAL, VALIDATION, few_classes, reports_of, run_of, small_splits, weights


@pytest.fixture(scope="module")
def benchmark():
    return load_dataset(TRIAL.dataset)


@pytest.fixture(scope="module")
def splits(benchmark) -> RunSplits:
    return small_splits(benchmark)


def test_a_run_reports_each_interval_and_beats_the_untrained_network(splits):
    run = run_of(splits, with_values(TRIAL, {"sampler.batches_per_epoch": 25, "optimizer.lr": 1e-2}))
    untrained = run.evaluate()
    reports = reports_of(run)
    assert [report["epoch"] for report in reports] == [2, 4]
    last = reports[-1]
    assert last["validation/map_at_r"] > 1.15 * untrained["validation/map_at_r"]
    assert {"train/loss", "train/loss_contextual", "train/recall_at_1", "time/images_per_second"} <= last.keys()
    assert last["train/steps"] == 100


def test_fit_and_validation_share_no_class(benchmark):
    for fold in range(4):
        splits = fold_splits(TRIAL, VALIDATION, fold, seed=0, benchmark=benchmark)
        assert not set(splits.fit.labels) & set(splits.query.labels)
        assert not set(splits.query.labels) & set(benchmark.test.labels)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(splits):
    first, second, other = run_of(splits), run_of(splits), run_of(splits, seed=2)
    for run in (first, second, other):
        run.advance()
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(other).values(), strict=True))


def test_a_run_on_the_cpu_leaves_cuda_alone(splits, monkeypatch):
    # As on a machine with a GPU: here any call that starts CUDA is an error.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    started = torch.cuda.is_initialized()
    run_of(splits).close()
    assert torch.cuda.is_initialized() == started


@pytest.mark.parametrize("given, expected", [(None, ":4096:8"), (":16:8", ":16:8")])
def test_deterministic_runs_ask_cublas_for_results_that_repeat(splits, monkeypatch, given, expected):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    run_of(splits).close()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    try:
        run_of(splits, with_values(TRIAL, {"deterministic": True})).close()
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected
    finally:
        torch.use_deterministic_algorithms(False)


class Cut(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("moment", ["after epoch 1", "after epoch 2, before its report", "after the first report"])
def test_a_run_resumed_from_disk_goes_on_bit_by_bit(splits, tmp_path, moment):
    whole, cut = run_of(splits), Trainer([run_of(splits)])
    reports = reports_of(whole)

    def save(*_: object) -> None:
        save_checkpoint(cut.state_dict(), tmp_path / "state.pt")
        if moment == f"after epoch {cut.epoch}" or (cut.epoch == 2 and "before" in moment):
            raise Cut

    def on_report(_: object) -> None:
        save_checkpoint(cut.state_dict(), tmp_path / "state.pt")
        raise Cut

    with pytest.raises(Cut):
        cut.run(on_report, on_checkpoint=save)
    torch.manual_seed(99)  # whatever happens to the process in between
    resumed = Trainer([run_of(splits)])
    resumed.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    resumed.run(lambda report: None)
    assert [report["epoch"] for report in resumed.history] == [2, 4]
    assert all(
        torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed.runs[0]).values(), strict=True)
    )
    for name, value in reports[-1].items():
        assert name.startswith("time/") or resumed.history[-1][name] == value
    assert resumed.history[0]["train/loss"] == reports[0]["train/loss"]


def test_evaluating_disturbs_nothing(splits):
    often, seldom = run_of(splits, with_values(TRIAL, {"evaluation.every": 1})), run_of(splits)
    reports_of(often)
    while not seldom.finished:
        seldom.advance()
    assert all(torch.equal(a, b) for a, b in zip(weights(often).values(), weights(seldom).values(), strict=True))


def test_a_state_of_another_configuration_is_refused(splits):
    state = run_of(splits).state_dict()
    with pytest.raises(CtxtuneError, match="another configuration or seed"):
        run_of(splits, with_values(TRIAL, {"loss.k": 8})).load_state_dict(state)


def test_several_folds_are_averaged(benchmark):
    folds = [small_splits(benchmark, fold, seed=3) for fold in (0, 1)]
    alone = [reports_of(run_of(splits, seed=3))[-1]["validation/map_at_r"] for splits in folds]
    together: list[dict[str, float]] = []
    Trainer([run_of(splits, seed=3) for splits in folds]).run(lambda report: together.append(report.metrics))
    assert together[-1]["validation/map_at_r"] == pytest.approx(np.mean(alone), abs=1e-12)


def test_folds_resumed_when_one_is_ahead_of_the_other_report_the_whole_interval(benchmark, tmp_path):
    def trainer() -> Trainer:
        return Trainer([run_of(small_splits(benchmark, fold, seed=3), seed=3) for fold in (0, 1)])

    whole, cut, resumed = trainer(), trainer(), trainer()
    whole.run(lambda report: None)

    def save() -> None:
        save_checkpoint(cut.state_dict(), tmp_path / "state.pt")
        if [run.epoch for run in cut.runs] == [2, 1]:
            raise Cut

    with pytest.raises(Cut):
        cut.run(lambda report: None, on_checkpoint=save)
    resumed.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    resumed.run(lambda report: None)
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(value == ours[name] for name, value in theirs.items() if not name.startswith("time/"))
        assert ours["time/images_per_second"] > 0


def test_a_confirmation_trains_on_all_train_classes_and_scores_test_once(benchmark):
    splits = confirmation_splits(TRIAL, VALIDATION, seed=0, benchmark=benchmark)
    assert len(splits.fit) == len(benchmark.train)
    few = RunSplits(few_classes(splits.fit, 40), few_classes(splits.query, 20), None, "test", splits.image_share)
    run = run_of(few)
    reports: list[dict[str, float]] = []
    Trainer([run], score_at="last", score_untrained=True).run(lambda report: reports.append(report.metrics))
    assert "test/map_at_r" not in reports[0]
    assert 0 < reports[-1]["floor/map_at_r"] <= 1 and 0 < reports[-1]["test/map_at_r"] <= 1
    assert reports[-1]["floor/map_at_r"] == pytest.approx(run_of(few).evaluate()["test/map_at_r"])
    # A third more images than a fold's fit classes: as many more batches.
    assert reports[-1]["train/steps"] == 4 * round(4 * splits.image_share)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_reason(splits):
    run = run_of(splits, with_values(TRIAL, {"optimizer.lr": 1e30, "schedule.name": "constant"}))
    with pytest.raises(RunFailed) as caught:
        reports_of(run)
    assert caught.value.reason in ("non_finite", "collapse")


def test_checkpoints_keep_the_newest_two_and_a_damaged_one_is_passed_over(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert folder.load_newest() is None
    for epoch in range(1, 5):
        folder.save({"epoch": epoch, "weights": torch.full((2,), float(epoch))}, epoch)
    assert [path.name for path in folder.paths()] == ["epoch-00003.pt", "epoch-00004.pt"]
    folder.paths()[-1].write_bytes(b"PK torn")
    newest = folder.load_newest()
    assert newest is not None and newest["epoch"] == 3
    for path in folder.paths():
        path.write_bytes(b"")
    with pytest.raises(CtxtuneError, match=r"epoch-00004\.pt"):
        folder.load_newest()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"format": 1, "state": Evil()}))
    with pytest.raises(CtxtuneError, match="not a checkpoint"):
        load_checkpoint(path)


def test_what_was_done_to_the_data_is_recorded_with_the_run(benchmark):
    trial = with_values(TRIAL, {"dataset.label_noise": 0.25})
    splits = fold_splits(trial, VALIDATION, 0, seed=5, benchmark=benchmark)
    last = reports_of(run_of(splits, trial))[-1]
    assert last["data/unreadable_images"] == 0
    recorded = {name: value for name, value in last.items() if name.startswith("data/")}
    assert any("label" in name and value > 0 for name, value in recorded.items()), recorded


@pytest.mark.parametrize("scored", ["validation", "test"])
def test_under_label_noise_the_train_classes_are_scored_by_the_true_labels_too(benchmark, scored):
    trial = with_values(TRIAL, {"dataset.label_noise": 0.25, "dataset.withheld_images": 0.3})
    if scored == "validation":
        splits = fold_splits(trial, VALIDATION, 0, seed=5, benchmark=benchmark)
        published = split(benchmark.train, VALIDATION)[0].fit
    else:
        splits, published = confirmation_splits(trial, VALIDATION, seed=5, benchmark=benchmark), benchmark.train
    truth = dict(zip(published.rows.tolist(), published.labels.tolist(), strict=True))
    assert splits.true_labels is not None and (splits.true_labels.rows == splits.fit.rows).all()
    assert splits.true_labels.labels.tolist() == [truth[row] for row in splits.fit.rows.tolist()]
    assert np.mean(splits.true_labels.labels != splits.fit.labels) == pytest.approx(0.25, abs=0.001)
    found = run_of(splits, trial).train_class_recall()
    assert found["train/recall_at_1_true_labels"] > found["train/recall_at_1"]
    clean = fold_splits(TRIAL, VALIDATION, 0, seed=5, benchmark=benchmark)
    assert clean.true_labels is None
