"""What we use of Ray without its promise: what it saves, and that nothing but the saving is lost where a name is gone."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError
from ray.train._internal.storage import StorageContext
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.experiment import trial as trial_module
from ray.tune.utils import object_cache

from ctxtune.tuning.backend import ray_internals
from ctxtune.tuning.backend.ray_internals import internal, thrifty_tune
from ctxtune.tuning.backend.runner import ray_errors_stop
from ctxtune.tuning.record.journal import Journal
from tests.helpers.processes import environment
from tests.helpers.runs import silent_recorder
from tests.helpers.sweeps import TINY


def test_tune_is_as_it_was_afterwards_also_after_an_error():
    before = TuneController._get_trial_checkpoints
    with pytest.raises(RuntimeError), thrifty_tune():
        assert TuneController._get_trial_checkpoints is not before
        raise RuntimeError
    assert TuneController._get_trial_checkpoints is before


@pytest.mark.parametrize("left", [OutOfMemoryError("no memory\nmore"), RuntimeError("Caught"), ValueError("ours")])
def test_an_error_of_rays_that_leaves_tune_is_a_stop_that_can_be_resumed_and_others_stay_what_they_are(tmp_path, left):
    if isinstance(left, RuntimeError):
        left.__cause__ = OutOfMemoryError("no memory\nmore")
    recorder = silent_recorder(Journal(tmp_path / "journal.jsonl"), "validation/map_at_r")
    if isinstance(left, ValueError):
        with pytest.raises(ValueError, match="ours"), ray_errors_stop(recorder):
            raise left
        return
    with ray_errors_stop(recorder):
        raise left
    assert recorder.stop.resumable and recorder.stop.reason == "ray_error"
    assert recorder.stop.message == "Ray has given up (no memory); everything is saved"


def test_as_many_processes_as_run_at_a_time_wait_for_the_next_stage_and_all_end_with_the_last():
    with thrifty_tune(2):
        cache = tune_controller._ObjectCache(may_keep_one=True)
    assert [cache.cache_object("one CPU", process) for process in ("first", "second", "third")] == [True, True, False]
    assert list(cache.flush_cached_objects()) == []
    assert cache.pop_cached_object("one CPU") == "first"
    assert list(cache.flush_cached_objects(force_all=True)) == ["second"]
    assert cache.total_max_objects == cache.num_cached_objects == 0
    with thrifty_tune():
        assert tune_controller._ObjectCache is object_cache._ObjectCache


def test_what_all_trials_run_is_looked_up_once_for_each_run_of_tune(monkeypatch):
    asked = []
    monkeypatch.setattr(trial_module, "get_trainable_cls", lambda name: asked.append(name) or object())
    for _ in range(2):
        with thrifty_tune():
            assert trial_module.get_trainable_cls("ours") is trial_module.get_trainable_cls("ours")
    assert asked == ["ours", "ours"]


def entered(manager):
    with manager:
        return True


USES = {
    ray_internals.AWS_KEYS: ray_internals.keep_aws_keys_here,
    ray_internals.CONTROLLER: lambda: entered(thrifty_tune()),
    ray_internals.ACTOR_MANAGER: lambda: entered(ray_internals.retry_after_out_of_memory()),
    f"{ray_internals.ACTOR_MANAGER}._actor_task_failed": lambda: entered(ray_internals.retry_after_out_of_memory()),
    f"{ray_internals.CONTROLLER}._get_trial_checkpoints": lambda: entered(thrifty_tune()),
    f"{ray_internals.CONTROLLER_MODULE}:{ray_internals.PROCESS_CACHE}": lambda: entered(thrifty_tune(2)),
    **{f"{ray_internals.TRIAL_MODULE}:{name}": lambda: entered(thrifty_tune()) for name in ray_internals.LOOKUPS},
    f"{ray_internals.STAGING}:_get_ray_train_session_dir": lambda: entered(ray_internals.staging_in(Path())),
    f"{ray_internals.CONSTANTS}:ENABLE_RAY_CLUSTER": lambda: entered(ray_internals.listening_on_loopback()),
    ray_internals.NODE: lambda: entered(ray_internals.without_monitors()),
    f"{ray_internals.NODE}.start_monitor": lambda: entered(ray_internals.without_monitors()),
    f"{ray_internals.NODE}.start_log_monitor": lambda: entered(ray_internals.without_monitors()),
    f"{ray_internals.SERVICES}:start_api_server": lambda: entered(ray_internals.without_monitors()),
    f"{ray_internals.UTILITIES}:get_dashboard_dependency_error": lambda: entered(ray_internals.without_monitors()),
    f"{ray_internals.SERVICES}:get_node": lambda: entered(ray_internals.patient_start(1)),
    f"{ray_internals.PRINTING}:print_to_stdstream": lambda: entered(ray_internals.nothing_printed_by_ray()),
    "ray._raylet:Config": ray_internals.read_authentication_anew,
    "ray._raylet:AuthenticationTokenLoader": ray_internals.read_authentication_anew,
    ray_internals.GCS_CLIENT: lambda: ray_internals.ask_cluster("127.0.0.1:1"),
    ray_internals.BOOTSTRAP: lambda: ray_internals.ask_cluster("127.0.0.1:1"),
    ray_internals.CHANNEL: lambda: ray_internals.ask_client_server("127.0.0.1:1", 1),
    ray_internals.CLIENT_PING: lambda: ray_internals.ask_client_server("127.0.0.1:1", 1),
    ray_internals.CLIENT_STUB: lambda: ray_internals.ask_client_server("127.0.0.1:1", 1),
    ray_internals.CLIENT: lambda: not ray_internals.connected_from_outside(),
    ray_internals.CLUSTER_STATUS: lambda: ray_internals.infeasible_requests("127.0.0.1:1") == [],
    ray_internals.LOCAL_TUNER: lambda: ray_internals.tuner_here(trainable=print),
    ray_internals.PROGRESS: lambda: ray_internals.silent_progress() == [],
}


@pytest.mark.parametrize("name", USES)
def test_this_ray_has_every_name(name):
    assert internal(name) is not None


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("gone", ["attribute", "module"])
def test_a_name_that_is_gone_costs_its_saving_only(name, gone, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    module, _, attribute = name.partition(":")
    if gone == "module":
        monkeypatch.setitem(sys.modules, module, None)
    elif name == ray_internals.CLIENT_PING:
        pytest.skip("generated code, whose attributes cannot be taken away")
    else:
        *owners, attribute = attribute.split(".")
        monkeypatch.delattr(internal(f"{module}:{'.'.join(owners)}" if owners else module), attribute)
    assert internal(name) is None
    assert USES[name]() is not False


def test_a_raylet_that_is_late_is_waited_for(monkeypatch):
    asked = []

    def get_node(address):
        asked.append(address)
        if len(asked) < 3:
            raise RuntimeError("no node info")
        return {"labels": {}}

    services = internal(ray_internals.SERVICES)
    monkeypatch.setattr(services, "get_node", get_node)
    with ray_internals.patient_start(600):
        assert services.get_node("here") == {"labels": {}}
    assert asked == ["here"] * 3 and services.get_node is get_node
    with ray_internals.patient_start(0), pytest.raises(RuntimeError):
        asked.clear()
        services.get_node("here")


def test_without_a_way_to_read_it_anew_rays_own_default_decides_on_the_token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray_internals, "internal", lambda name: None)
    ray_internals.read_authentication_anew()
    assert "RAY_AUTH_MODE" not in ray_internals.os.environ


def test_of_a_trial_that_has_ended_tune_keeps_its_key_and_none_of_the_copies_of_its_configuration():
    config = {"key": "trial-0001", "spec": "SPEC OF THE RUN"}
    trial = Trial(
        "none", config=config, evaluated_params=dict(config), experiment_tag="1_spec=SPEC OF THE RUN",
        storage=StorageContext("/nowhere", "none"), stub=True,
    )  # fmt: skip
    trial.update_last_result({"epoch": 3.0, "validation/map_at_r": 0.5, "config": dict(config)})
    assert len(re.findall("SPEC OF THE RUN", str(vars(trial) | vars(trial.run_metadata)))) == 6
    ray_internals.forget_details(trial)
    kept = str(vars(trial) | vars(trial.run_metadata))
    assert "SPEC OF THE RUN" not in kept and "last-5-avg" not in kept
    assert trial.config == {"key": "trial-0001"} and trial.last_result["validation/map_at_r"] == 0.5


def test_a_trial_without_the_attributes_we_know_is_left_alone():
    trial = SimpleNamespace(status="RUNNING")
    ray_internals.end_process(trial)
    ray_internals.forget_details(trial)
    assert vars(trial) == {"status": "RUNNING"}
    assert ray_internals.error_of(trial) == "no message"


SWEEP = """
import sys
from pathlib import Path
from ctxtune.tuning.backend import ray_internals
ray_internals.internal = lambda name: None
from ctxtune.config import load_search_space
from ctxtune.tuning.sweep import Watcher, run_sweep
space = load_search_space(Path(sys.argv[1]) / "search_spaces/quickstart.yaml", sys.argv[2:])
run_sweep(space, root=Path("results"), watcher=Watcher(on_note=print))
"""


@pytest.mark.slow
def test_a_sweep_comes_to_its_end_with_a_ray_that_has_none_of_the_names(repository, tmp_path):
    overrides = [
        *TINY,
        "search.trials=2",
        "select=null",
        "confirm=null",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    ]
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(repository), *overrides],
        cwd=tmp_path, env=environment(repository, RAY_AUTH_MODE="disabled"), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not on the loopback interface only" in done.stdout and "random token" in done.stdout
    assert (tmp_path / "results/quickstart/best.yaml").exists()


def test_nothing_else_imports_what_ray_promises_nobody(repository):
    for file in (repository / "ctxtune/tuning/backend").glob("*.py"):
        if file.name != "ray_internals.py":
            text = file.read_text()
            for private in (
                "ray._private",
                "_raylet",
                "._internal",
                "ray.core",
                ".impl.",
                "tune.execution",
                "train.v2",
            ):
                assert private not in text, f"{file.name}: {private}"
