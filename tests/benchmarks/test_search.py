"""`benchmarks/search.py`: recorded tables, the model of them, and a replayed search in small."""

import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("search")


def test_a_search_is_replayed_over_a_model_of_the_recorded_tables(benchmark):
    tables = benchmark.read_tables()
    assert set(tables) == {"photographs", "omniglot", "noisy_labels"}
    assert all(len(table.curves) >= 2000 and table.values.shape[1] == 9 for table in tables.values())
    table = tables["photographs"]
    small = type(table)(table.values[:120], table.curves[:120], table.repeats)
    surrogate = benchmark.Surrogate(small)
    agreement = benchmark.stats.spearmanr(surrogate.cross_validated[:, -1], surrogate.recorded[:, -1]).statistic
    assert agreement > 0.6
    found = benchmark.simulate(benchmark.METHODS["ours (default) + ASHA"](0), surrogate, workers=2, most_epochs=30)
    epochs = [at for at, _ in found]
    assert epochs == sorted(epochs) and epochs[-1] <= 30
    again = benchmark.simulate(benchmark.METHODS["ours (default) + ASHA"](0), surrogate, workers=2, most_epochs=30)
    assert found == again
    assert np.isfinite([score for _, score in found]).all()
    assert benchmark.epochs_until(found, found[-1][1] + 1) == np.inf


def test_a_search_whose_library_is_not_installed_is_named(benchmark, monkeypatch):
    rivals = sys.modules["search_rivals"]
    monkeypatch.setitem(rivals.NEEDS, "HEBO + ASHA", ("no_such_library", "numpy"))
    assert benchmark.missing("HEBO + ASHA") == ["no_such_library"]
    assert benchmark.missing("random + ASHA") == []
    assert set(rivals.NEEDS) <= set(benchmark.METHODS)
