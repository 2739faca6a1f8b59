"""GPU-hours and money, on logical GPUs: Ray hands them out, nothing computes on them."""

import itertools
import json

import pytest

from ctxtune.results.costs import Rate, Spent
from ctxtune.tracking import find_sweep, read_runs
from ctxtune.tuning.record.journal import Journal
from tests.helpers.sweeps import SMALL, run_sweep

PRICE = 7.2
BUDGET = 30.0 / 3600  # of one GPU: on a slow or busy machine, too, the start and some trials
OVERRIDES = [
    *SMALL,
    "trial.precision=float32",
    "trial.schedule.epochs=6",
    "trial.sampler.batches_per_epoch=6",
    "search.trials=2000",
    "search.scheduler.name=none",
    f"search.budget.gpu_hours={BUDGET}",
    "select=null",
    "confirm=null",
    f"resources={{gpus: 0.5, cpus: 0.5, price_per_gpu_hour: {PRICE}}}",
]


@pytest.mark.slow
def test_a_sweep_keeps_its_gpu_hours_within_an_evaluation_and_says_what_each_trial_costs(repository, tmp_path):
    variables = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1}'}
    done = run_sweep(repository, tmp_path, overrides=OVERRIDES, variables=variables)
    assert done.returncode == 0, done.stderr
    trials = Journal(tmp_path / "results/quickstart/journal.jsonl").stage("search")
    assert 1 < len(trials) < 2000
    # Half a GPU each: two are packed on the one there is, and no more.
    under_way, most = set(), 0
    for line in (tmp_path / "results/quickstart/journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "reported":
            under_way.add(event["key"])
        elif event["event"] == "ended":
            under_way.discard(event["key"])
        most = max(most, len(under_way))
    assert most == 2
    # Each costs half of the wall time of its work, at the price.
    series = [[report.metrics["cost/gpu_hours"] for report in trial.reports] for trial in trials if trial.reports]
    assert all(earlier < later for each in series for earlier, later in itertools.pairwise(each))
    for trial in trials:
        for report in trial.reports:
            assert report.metrics["cost/gpu_hours"] >= 0.5 * report.metrics["time/seconds"] / 3600
            assert report.metrics["cost/money"] == pytest.approx(PRICE * report.metrics["cost/gpu_hours"])
    spent = sum(each[-1] for each in series)
    one_evaluation = max(after - before for each in series for before, after in itertools.pairwise([0.0, *each]))
    assert spent + 2 * one_evaluation >= BUDGET
    assert spent <= BUDGET + 2 * one_evaluation, f"{3600 * spent:.2f} s of {3600 * BUDGET:.2f} s"
    # The same in summary, output and MLflow, for the sweep and for each trial.
    summary = json.loads((tmp_path / "results/quickstart/summary.json").read_text())
    assert summary["gpu_hours"] == pytest.approx(spent) and summary["money"] == pytest.approx(PRICE * spent)
    assert f"{spent:.3g} GPU-hours for {PRICE * spent:.2f}" in done.stdout
    assert "GPU-hours spent" in done.stdout
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked = {run.name: run for run in read_runs(uri, "quickstart", "trial")}
    for trial in trials:
        if trial.reports:
            assert tracked[trial.key].metrics["cost/money"] == pytest.approx(trial.last("cost/money"))
    sweep = find_sweep(uri, "quickstart")
    assert sweep is not None and sweep.metrics["cost/gpu_hours"] == pytest.approx(spent)


def test_without_gpus_there_are_no_gpu_hours_and_without_a_price_no_money():
    assert Rate(0, 5.0).of(3600) == {}
    assert Rate(0.25).of(3600) == {"cost/gpu_hours": 0.25}
    assert Rate(2, 1.5).of(1800) == {"cost/gpu_hours": 1.0, "cost/money": 1.5}
    assert str(Spent(12.345, None)) == "12.3 GPU-hours" and str(Spent(0.5, 1.0)) == "0.5 GPU-hours for 1.00"
