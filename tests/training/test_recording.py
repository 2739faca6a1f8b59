"""The bookkeeping around recorded passes, which no GPU is needed for: a pass that is computed anew at each replay."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from ctxtune.training.recording import STEPS_BEFORE, StepRecorder, recording_allowed
from ctxtune.training.splits import RunSplits
from tests.helpers.training import equal, run_of, small_splits, trial_of, weights


@pytest.fixture(scope="module")
def splits() -> RunSplits:
    return small_splits()


class ComputedPass:
    """What a recording does, by computing it."""

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        images: Tensor,
        trained: Sequence[nn.Parameter],
        leaves: Sequence[Tensor],
        _: object,
    ) -> None:
        self.embed, self.trained, self.leaves, self.shape = embed, trained, leaves, images.shape

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape == self.shape
        self.embeddings = self.embed(images)
        return self.embeddings.detach().clone()

    def backward(self, gradient: Tensor) -> None:
        found = torch.autograd.grad(self.embeddings, self.leaves, gradient, allow_unused=True)
        for parameter, its in zip(self.trained, found, strict=True):
            parameter.grad = its


def recording(run):
    step = run.step
    step.recorder = StepRecorder(step._forward, step._embed_to_record, ComputedPass)
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16", "optimizer__gradient_clip": 0.5, "model__projector_dim": 24},
        {"loss": {"name": "proxy_anchor"}, "schedule__head_warmup_epochs": 1},
        {"loss": {"name": "multi_similarity", "memory": {"size": 64, "start_step": 2}}},
    ],
    ids=["contextual", "clipped", "proxies", "memory"],
)
def test_replayed_steps_train_as_plain_ones(splits, changes):
    trial = trial_of(sampler__batches_per_epoch=6, schedule__epochs=2, **changes)
    plain, replayed = run_of(splits, trial), recording(run_of(splits, trial))
    curves = [[run.advance(until=epoch)["train/loss"] for epoch in (1, 2)] for run in (plain, replayed)]
    assert replayed.step.recorder.recorded
    assert curves[0] == curves[1]
    assert equal(weights(plain), weights(replayed))


def test_a_recording_belongs_to_what_is_trained_and_survives_a_smaller_batch(splits):
    run = recording(run_of(splits))
    recorder, images = run.step.recorder, torch.zeros(32, 1, 32, 32)
    found = [recorder.find(images) for _ in range(STEPS_BEFORE + 2)]
    assert found[:STEPS_BEFORE] == [None] * STEPS_BEFORE
    assert found[-1] is found[-2] is not None
    assert recorder.find(images[:31]) is None
    assert recorder.find(images) is found[-1]
    run.model.set_backbone_trainable(False)
    assert recorder.find(images) is None
    assert not recorder.recorded
    again = [recorder.find(images) for _ in range(STEPS_BEFORE)]
    assert again[-1] not in (None, found[-1])
    run.model.eval()
    assert recorder.find(images) is None


def test_steps_on_a_cpu_are_not_recorded_and_a_switch_leaves_them_alone(splits, monkeypatch):
    assert run_of(splits).step.recorder is None
    assert recording_allowed()
    monkeypatch.setenv("CTXTUNE_CUDA_GRAPHS", "0")
    assert not recording_allowed()
