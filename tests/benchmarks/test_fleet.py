"""`benchmarks/fleet.py`: a small fleet, through the real driver on a simulated clock."""

import pytest


@pytest.fixture(scope="module")
def fleet(load_benchmark):
    return load_benchmark("fleet")


@pytest.fixture(scope="module")
def found(fleet):
    return fleet.figures(100, fleet.Machines(gpus=24, life_hours=0.25), fleet.Tracking(), sampler="random")


@pytest.mark.slow
def test_every_trial_runs_to_its_end_though_nodes_die(found):
    assert found["trials"] == 100
    assert found["deaths_of_nodes"] > 0
    assert found["gpu_time_until_the_last_start"]["lost"] > 0
    assert found["reports"] > 100 and found["completed"] > 0


@pytest.mark.slow
def test_all_gpu_time_is_accounted_for(found):
    assert sum(found["gpu_time_until_the_last_start"].values()) == pytest.approx(1, abs=0.001)
    shares = found["gpu_time_until_the_last_start"]
    waited = shares["first_run"] + shares["next_run"] + shares["answer"]
    assert found["busy"] == pytest.approx(1 - waited, abs=0.0003)


@pytest.mark.slow
def test_the_driver_and_a_resumed_one_are_measured(found):
    assert found["suggestions_a_second_at_the_end"] > 0 and found["gpus_at_which_the_driver_is_always_busy"] > 0
    assert found["journal_mib"] > 0 and found["resume_s"] > 0


def test_a_slow_driver_is_seen_in_the_gpu_time(fleet, tmp_path):
    config = fleet.fleet_space(40, "random")
    machines = fleet.Machines(gpus=20, engine=6.0)  # 20 GPUs that report each minute are more than it can answer
    tracker = fleet.Tracker("sqlite:///unused.db", "fleet", tmp_path / "spool", deliver=False)
    found = fleet.search(config, fleet.Fleet(machines, fleet.recorded_scores(config)), tmp_path, tracker, None)
    tracker.close(timeout=0)
    assert found["busy"] < 0.8 and found["gpus_at_which_the_driver_is_always_busy"] < 20
