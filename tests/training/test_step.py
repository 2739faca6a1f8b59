"""The step's variants against the plain step: micro-batches, averaged weights, compilation, clipping, several processes."""

import copy
import warnings

import pytest
import torch

from ctxtune.config import TrialSettings
from ctxtune.training import ProcessGroup
from ctxtune.training.compilation import CompiledWithFallback
from ctxtune.training.splits import RunSplits
from tests.helpers.ranks import on_two_ranks
from tests.helpers.training import (
    SGD,
    equal,
    reports_of,
    run_of,
    small_splits,
    trained_together,
    trial_of,
    weights,
)


@pytest.fixture(scope="module")
def splits() -> RunSplits:
    return small_splits()


def trained(splits: RunSplits, trial: TrialSettings, steps: int = 3, *, frozen_statistics: bool = True, seed: int = 1):
    run = run_of(splits, trial, seed)
    if frozen_statistics:
        run.model.eval()  # batch norm as in recipes that freeze it; small_conv has no published statistics
    for images, indices in run._images.batches(run._sampler.epoch(0)[:steps], 0):
        run.step(images, run._labels[indices])
    return run


def largest_difference(first, second) -> float:
    theirs = dict(second.named_parameters())
    return max(
        (float((value - theirs[name]).detach().abs().max()) for name, value in first.named_parameters()), default=0
    )


def as_near_as_rounding_lets(first, second, start) -> bool:
    """Whether two that began as ``start`` moved alike, by how far they moved: what rounding does to float32 in a few
    steps depends on the processor, a gradient that lacks something or counts it twice is wrong by far more.
    """
    return largest_difference(first, second) < 0.01 * largest_difference(first, start)


@pytest.mark.parametrize("size", [1, 7, 16, 31, 32, 64])
@pytest.mark.parametrize("loss", ["contextual", "proxy_anchor"])
def test_micro_batches_give_the_undivided_step(splits, size, loss):
    plain = trial_of(loss={"name": loss}, optimizer__gradient_clip=1.0, **SGD)
    divided = trial_of(loss={"name": loss}, optimizer__gradient_clip=1.0, optimizer__micro_batch=size, **SGD)
    steps = 3 if size > 1 else 1
    one, other, start = trained(splits, plain, steps), trained(splits, divided, steps), run_of(splits, plain)
    assert as_near_as_rounding_lets(one.model, other.model, start.model)
    assert as_near_as_rounding_lets(one.loss, other.loss, start.loss) if list(one.loss.parameters()) else True


def test_the_second_pass_draws_the_same_random_numbers(splits):
    masks: list[torch.Tensor] = []

    class Dropping(torch.nn.Module):
        def forward(self, pooled):
            masks.append(torch.rand_like(pooled) > 0.5)
            return pooled * masks[-1]

    run = run_of(splits, trial_of(optimizer__micro_batch=16))
    run.model.normalization = Dropping()
    images, indices = next(iter(run._images.batches(run._sampler.epoch(0), 0)))
    run.step(images, run._labels[indices])
    assert len(masks) == 4
    assert torch.equal(masks[0], masks[2]) and torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[1])
    before = torch.rand(1)
    run.step(images, run._labels[indices])
    assert not torch.equal(masks[0], masks[4]) and not torch.equal(before, torch.rand(1))


def test_micro_batches_count_each_image_once_in_the_running_statistics(splits):
    run = trained(splits, trial_of(optimizer__micro_batch=16), 2, frozen_statistics=False)
    counts = {int(value) for name, value in run.model.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {4}


def test_averaged_weights_follow_the_formula_and_are_what_is_scored(splits):
    run = run_of(splits, trial_of(optimizer__ema=0.8, evaluation__every=1))
    expected = run.model.embedding.weight.detach().clone().double()
    for step, (images, indices) in enumerate(run._images.batches(run._sampler.epoch(0), 0), start=1):
        run.step(images, run._labels[indices])
        run.averaged.update(run.model, step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * run.model.embedding.weight.detach().double()
    assert torch.allclose(run.averaged.model.embedding.weight.double(), expected, atol=1e-6)
    with_average = run.evaluate()
    run.model.load_state_dict(run.averaged.model.state_dict())
    run.averaged = None
    assert run.evaluate() == pytest.approx(with_average, abs=1e-9)


def test_averaging_does_not_touch_the_training_and_is_resumed(splits):
    plain, averaged = run_of(splits), run_of(splits, trial_of(optimizer__ema=0.9))
    for run in (plain, averaged):
        run.advance()
    assert equal(weights(plain), weights(averaged))
    again = run_of(splits, trial_of(optimizer__ema=0.9), seed=1)
    again.load_state_dict(copy.deepcopy(averaged.state_dict()))
    assert reports_of(again)[-1]["validation/map_at_r"] == reports_of(averaged)[-1]["validation/map_at_r"]
    assert equal(again.averaged.model.state_dict(), averaged.averaged.model.state_dict())


@pytest.mark.slow
def test_where_the_compiler_fails_the_run_goes_on_without_it():
    import torch._inductor.config as config

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU(), torch.nn.Softplus())
    called = CompiledWithFallback(module)
    images = torch.randn(4, 3)
    broken = config.patch({"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True})
    with broken, pytest.warns(UserWarning, match=r"torch\.compile failed"):
        result = called(images)
    assert called.fell_back
    assert torch.equal(result, module(images)) and torch.equal(called(images), module(images))


@pytest.mark.slow
def test_an_error_of_the_model_itself_is_not_taken_for_the_compilers():
    class Wrong(torch.nn.Module):
        def forward(self, images):
            return images @ torch.ones(7, 1)

    with warnings.catch_warnings(), pytest.raises((RuntimeError, TypeError)):
        warnings.simplefilter("error")
        CompiledWithFallback(Wrong())(torch.randn(2, 3))


@pytest.mark.slow
def test_a_compiled_run_learns_as_the_plain_one(splits):
    plain, compiled = (trained(splits, trial_of(compile=flag, **SGD)) for flag in (False, True))
    assert as_near_as_rounding_lets(plain.model, compiled.model, run_of(splits, trial_of(**SGD)).model)


@pytest.mark.slow
def test_compiled_micro_batches_drop_in_both_passes_what_the_plain_model_drops(splits):
    compiled, plain = (
        run_of(splits, trial_of(compile=flag, optimizer__micro_batch=16, **SGD)) for flag in (True, False)
    )
    for run in (compiled, plain):
        run.model.eval()
        run.model.normalization = torch.nn.Dropout(0.5).train()
        run.step.seed(1, 0)
        images, indices = next(iter(run._images.batches(run._sampler.epoch(0), 0)))
        run.step(images, run._labels[indices])
    start = run_of(splits, trial_of(optimizer__micro_batch=16, **SGD))
    assert as_near_as_rounding_lets(plain.model, compiled.model, start.model)


def _trained_on_rank(rank):
    return trained_together(ProcessGroup(rank, 2))


def test_two_processes_train_as_one_does(tmp_path):
    one = trained_together(ProcessGroup())
    first, second = on_two_ranks(_trained_on_rank, tmp_path)
    for name, (parameters, moved, loss, score) in one.items():
        for there in (first, second):
            weights_there, _, loss_there, score_there = there[name]
            assert parameters.keys() == weights_there.keys()
            apart = max(float((value - weights_there[key]).abs().max()) for key, value in parameters.items())
            assert apart < 0.02 * moved  # rounding, which a few steps enlarge
            assert loss_there == pytest.approx(loss, rel=1e-3)
            assert score_there == pytest.approx(score, abs=0.01)
        assert equal(first[name][0], second[name][0])
