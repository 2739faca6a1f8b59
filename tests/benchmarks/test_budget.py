"""`benchmarks/budget.py`: the shipped GPU spaces keep what a budget promises, on a simulated clock."""

import itertools

import pytest

SPACES = ("cars", "cub", "sop", "inshop", "inaturalist", "cars_dinov2", "cub_dinov2")
RATES, GPUS = (150, 400, 900, 2000), (1, 4, 8)
FAST = [("cars", 150, 1), ("cub", 400, 4), ("sop", 900, 1), ("inshop", 400, 1), ("inaturalist", 2000, 8),
        ("cars_dinov2", 150, 1), ("cub_dinov2", 400, 1)]  # fmt: skip


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("budget")


def check(found) -> None:
    """Either the budget is refused with a number that would do, or it is kept and the search has its share."""
    if found.refused:
        assert "cannot hold the start" in found.refused and "would do" in found.refused
        return
    assert found.hours <= found.budget + found.longest_evaluation
    evaluation = found.longest_evaluation / found.budget
    assert not found.ended_by or found.searched >= 0.6 - evaluation
    assert found.ended_by or found.trials == found.asked
    assert found.seeds >= 2


@pytest.mark.parametrize(("name", "rate", "gpus"), FAST)
def test_a_shipped_space_keeps_its_budget_and_its_search_has_its_share(benchmark, name, rate, gpus):
    check(benchmark.outcome(name, rate, gpus, ("search.sampler.name=random",)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate", "gpus"), itertools.product(SPACES, RATES, GPUS))
def test_so_does_every_one_at_every_speed(benchmark, name, rate, gpus):
    check(benchmark.outcome(name, rate, gpus))


@pytest.mark.parametrize("name", ["cars", *(pytest.param(name, marks=pytest.mark.slow) for name in SPACES[1:])])
def test_one_card_at_400_images_a_second_gets_a_search_and_a_confirmation(benchmark, name):
    found = benchmark.outcome(name, 400, 1)
    assert not found.refused and found.trials >= 40 and found.seeds >= 3
