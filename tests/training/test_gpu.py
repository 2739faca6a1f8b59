"""Training on a CUDA device: precision paths, micro-batches, compilation, and a short run that learns what a CPU learns."""

import numpy as np
import pytest
import torch
from torch import nn

from ctxtune.training import load_checkpoint, save_checkpoint
from ctxtune.training.precision import resolve_precision
from ctxtune.training.recording import STEPS_BEFORE, StepRecorder
from ctxtune.training.trainer import Trainer
from tests.helpers.losses import relative
from tests.helpers.training import first_batch, losses_of, reports_of, run_of, small_splits, train_here, trial_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(scope="module")
def splits():
    return small_splits()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_lowers_the_loss_as_the_cpu_does(splits, precision):
    on_cpu = losses_of(run_of(splits, trial_of(precision="float32")))
    on_gpu = losses_of(run_of(splits, trial_of(precision=precision), device="cuda"))
    assert on_gpu == pytest.approx(on_cpu, rel=0.25)
    assert on_gpu[-1] < on_gpu[0]


def test_without_tf32_the_first_loss_is_that_of_the_cpu(splits):
    trial = trial_of(precision="float32", tf32=False)
    assert losses_of(run_of(splits, trial, device="cuda"), 1) == pytest.approx(
        losses_of(run_of(splits, trial), 1), abs=1e-4
    )


def test_auto_is_bfloat16_where_the_gpu_has_it():
    expected = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    assert resolve_precision("auto", torch.device("cuda")) == expected


def test_micro_batches_give_the_undivided_loss_curve(splits):
    plain = trial_of(precision="float32", tf32=False, optimizer__name="sgd", optimizer__lr=0.02)
    divided = trial_of(
        precision="float32", tf32=False, optimizer__name="sgd", optimizer__lr=0.02, optimizer__micro_batch=8
    )
    runs = [run_of(splits, trial, device="cuda") for trial in (plain, divided)]
    for run in runs:
        run.model.eval()
    assert losses_of(runs[1]) == pytest.approx(losses_of(runs[0]), abs=1e-3)


def test_compiled_training_follows_the_plain_one(splits):
    plain, compiled = (
        losses_of(run_of(splits, trial_of(precision="float32", tf32=False, compile=flag), device="cuda"), 3)
        for flag in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=0.05)


PRECISIONS = {"float32": 1e-4, "bfloat16": 0.03, "float16": 0.01}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("changes", [{}, {"model__projector_dim": 24, "optimizer__gradient_clip": 0.5}], ids=str)
def test_recorded_steps_train_as_plain_ones(splits, monkeypatch, precision, changes):
    trial = trial_of(precision=precision, tf32=False, **changes)
    recorded = run_of(splits, trial, device="cuda")
    monkeypatch.setenv("CTXTUNE_CUDA_GRAPHS", "0")
    plain = run_of(splits, trial, device="cuda")
    assert plain.step.recorder is None
    curves = [losses_of(run, 12) for run in (plain, recorded)]
    assert recorded.step.recorder.recorded and not recorded.step.recorder.failed
    assert curves[1] == pytest.approx(curves[0], rel=0.25)
    for name, value in recorded.model.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(value) == 12


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_replay_gives_the_embeddings_and_gradients_of_the_plain_pass(splits, precision):
    run = run_of(splits, trial_of(precision=precision, tf32=False), device="cuda")
    losses_of(run)
    batches = [images for images, _ in run._images.batches(run._sampler.epoch(1), 1)]
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    for images in batches[:3]:
        found = run.step.recorder.find(images)
        assert found is not None
        embeddings = run.step._embed(images)
        gradient = torch.randn_like(embeddings)
        wanted = torch.autograd.grad(embeddings, trained, gradient)
        replayed = found.forward(images)
        found.backward(gradient)
        assert relative(replayed, embeddings.detach()) < PRECISIONS[precision]
        for parameter, other in zip(trained, wanted, strict=True):
            assert parameter.grad.stride() == parameter.stride()
            # A bias before batch norm has no gradient but rounding errors.
            rounding = (1e-5 if precision == "float32" else 1e-2) * gradient.norm()
            assert (parameter.grad - other).norm() <= PRECISIONS[precision] * other.norm() + rounding


def test_runs_in_turn_share_the_memory_of_recordings_and_do_not_disturb_each_other(splits):
    trial = trial_of(precision="float32", tf32=False, sampler__batches_per_epoch=6, schedule__epochs=2)
    alone = [run_of(splits, trial, seed, "cuda") for seed in (1, 2)]
    wanted = [[run.advance(until=epoch)["train/loss"] for epoch in (1, 2)] for run in alone]
    del alone
    runs = [run_of(splits, trial, seed, "cuda") for seed in (1, 2)]
    found = [[run.advance(until=epoch)["train/loss"] for run in runs] for epoch in (1, 2)]
    recorded = [run.step.recorder._recorded for run in runs]
    assert recorded[0].pool == recorded[1].pool
    assert [list(curve) for curve in zip(*found, strict=True)] == [pytest.approx(curve, rel=0.02) for curve in wanted]


def test_a_recording_follows_what_is_trained(splits):
    trial = trial_of(schedule__head_warmup_epochs=1, sampler__batches_per_epoch=6)
    run = run_of(splits, trial, device="cuda")
    before = {name: value.clone() for name, value in run.model.backbone.named_parameters()}
    run.advance(until=1)
    assert run.step.recorder.recorded
    assert all(torch.equal(value, before[name]) for name, value in run.model.backbone.named_parameters())
    run.advance(until=2)
    assert run.step.recorder.recorded
    assert not any(torch.equal(value, before[name]) for name, value in run.model.backbone.named_parameters())


def test_a_step_is_recorded_while_the_graph_of_an_earlier_one_is_held(splits):
    run = run_of(splits, device="cuda")
    held = run.step._embed(first_batch(run)[0])  # with it the parameters' nodes, of another stream than the recording's
    losses_of(run)
    assert run.step.recorder.recorded
    assert held.requires_grad


class ReadsItsWeightPastItsAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, device="cuda"))
        self.hidden = [self.weight]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images @ self.hidden[0]


def test_a_model_whose_gradients_a_recording_would_miss_is_not_recorded(splits):
    module = ReadsItsWeightPastItsAttribute()
    recorder = StepRecorder(module, lambda weights, images: torch.func.functional_call(module, weights, (images,)))
    images = torch.randn(8, 4, device="cuda")
    assert [recorder.find(images) for _ in range(STEPS_BEFORE)] == [None] * STEPS_BEFORE
    with pytest.warns(UserWarning, match="reads a parameter that is not an attribute"):
        assert recorder.find(images) is None
    assert recorder.failed
    run = run_of(splits, device="cuda")
    losses_of(run)
    assert run.step.recorder.recorded


def test_a_short_run_reaches_the_score_of_the_cpu_and_can_be_resumed(splits, tmp_path):
    # Single seeds differ by a fifth (0.26 to 0.33 on a CPU), also where they share weights and batches.
    trial = trial_of(sampler__batches_per_epoch=25, optimizer__lr=1e-2, precision="float32", tf32=False)
    floor = run_of(splits, trial).evaluate()["validation/map_at_r"]
    on_cpu, on_gpu = (
        np.mean([reports_of(run_of(splits, trial, seed, device))[-1]["validation/map_at_r"] for seed in range(3)])
        for device in ("cpu", "cuda")
    )
    assert on_gpu - floor > 0.5 * (on_cpu - floor)
    trainer = Trainer([run_of(splits, trial, device="cuda")])
    trainer.run(lambda report: save_checkpoint(report.state(), tmp_path / f"{report.metrics['epoch']:.0f}.pt"))
    again = Trainer([run_of(splits, trial, device="cuda")])
    again.load_state_dict(load_checkpoint(tmp_path / "2.pt", "cuda"))
    again.run(lambda report: None)
    assert [metrics["epoch"] for metrics in again.history] == [2, 4]
    assert again.history[0] == trainer.history[0]
    assert again.history[-1]["validation/map_at_r"] > floor


def test_neither_images_nor_steps_wait_for_the_device(splits):
    run = run_of(splits, trial_of(precision="bfloat16"), device="cuda")
    order = run._sampler.epoch(0)
    for number in range(2):  # the first time there are things to set up
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            for images, indices in run._images.batches(order, number):
                run.step(images, run._labels[indices].to(run.device, non_blocking=True))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert run.step.recorder.recorded
    run.step.finite.check(0)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_the_command_trains_on_the_gpu(tmp_path, device):
    torch.cuda.reset_peak_memory_stats()
    status, output = train_here(tmp_path, "--device", device)
    assert status == 0 and "validation/map_at_r" in output
    assert torch.cuda.max_memory_allocated() > 0
