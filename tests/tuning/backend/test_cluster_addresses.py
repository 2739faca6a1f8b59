"""What is wrong with an address, a request or a node is said before anything runs."""

import pytest
import yaml

from ctxtune.errors import ConfigError, CtxtuneError, DataError
from ctxtune.tuning.backend.cluster import NodeKind, cluster_address, configured_kinds, running_ray
from ctxtune.tuning.backend.connect import own_modules
from ctxtune.tuning.backend.nodes import NodeReport, report_node, require_alike
from tests.helpers.sweeps import sweep_here
from tests.helpers.tracking import new_store


@pytest.mark.timeout(240)  # Ray itself would try for minutes
def test_an_address_without_cluster_is_said(refusing_port):
    with pytest.raises(CtxtuneError, match=f"--address 127.0.0.1:{refusing_port}: no Ray cluster answers there"):
        running_ray(f"127.0.0.1:{refusing_port}").__enter__()
    with pytest.raises(CtxtuneError, match="no Ray cluster answers there"):
        running_ray(f"ray://127.0.0.1:{refusing_port}").__enter__()


@pytest.mark.parametrize("address", ["head", "http://head:8265", "ray://head", "head:port"])
def test_an_address_of_another_form_is_said(address):
    with pytest.raises(ConfigError, match="expected auto, HOST:PORT or ray://HOST:PORT"):
        running_ray(address).__enter__()


def test_a_submitted_job_finds_its_own_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address(None) is None


def test_an_address_of_the_environment_is_called_that(monkeypatch, refusing_port):
    address = f"127.0.0.1:{refusing_port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        CtxtuneError, match=f"^RAY_ADDRESS={address} .in the environment.: no Ray cluster answers there"
    ):
        running_ray(address).__enter__()


@pytest.mark.parametrize(
    ("kind", "cpus", "gpus", "runs"),
    [
        (NodeKind("a", 4, 1, 1), 4, 1, 1),
        (NodeKind("a", 4, 1, 1), 1, 0.25, 4),
        (NodeKind("a", 4, 1, 1), 2, 0.25, 2),
        (NodeKind("a", 96, 8, 1), 12, 1, 8),
        (NodeKind("a", 4, 1, 1), 1, 2, 0),
        (NodeKind("a", 0, 0, 1), 1, 0, 0),
        (NodeKind("a", 8, 0, 1), 3, 0, 2),
        (NodeKind("a", 3, 0.3, 1), 1, 0.1, 3),
    ],
)
def test_how_many_runs_a_node_holds(kind, cpus, gpus, runs):
    assert kind.runs(cpus, gpus) == runs


@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml"])
def test_the_launchers_own_file_says_what_the_cluster_may_grow_to(repository, file):
    config = yaml.safe_load((repository / "docker/launcher" / file).read_text())
    kinds = {kind.name: kind for kind in (NodeKind(*each) for each in configured_kinds(config))}
    assert kinds["head"].runs(1, 0) == 0
    assert (kinds["gpu_spot"].gpus, kinds["gpu_spot"].most) == (1, 8)
    assert kinds["gpu_on_demand"].most == 2


@pytest.mark.slow
@pytest.mark.ray
def test_what_a_machine_lacks_is_said_in_words_before_anything_runs_there(repository, tmp_path):
    new_store(tmp_path)
    with running_ray():  # which the sweep uses as it is
        missing = report_node({"name": "cars196", "root": str(tmp_path / "nowhere")}, str(tmp_path))
        unwritable = report_node({"name": "glyphs", "root": None}, "/proc/sweeps")
        good = report_node({"name": "glyphs", "root": None}, str(tmp_path))
        done = sweep_here(repository, tmp_path, overrides=["resources={gpus: 3, cpus: 1}"])
    assert missing.problem.startswith("data: ") and str(tmp_path / "nowhere") in missing.problem
    assert "/proc/sweeps cannot be written" in unwritable.problem
    assert good.problem == "" and good.fingerprint and "hardware.cpus" in good.environment
    assert done.returncode == 2
    assert "asks for 1 CPU cores and 3 GPUs on one node" in done.stderr and "Traceback" not in done.stderr
    assert "resources.gpus" in done.stderr
    assert not (tmp_path / "results/quickstart/space.yaml").exists()  # the next try is a first one


def test_nodes_are_named_with_what_each_lacks():
    good = NodeReport("10.0.0.1", "", "abc", {})
    with pytest.raises(DataError) as refused:
        require_alike([good, NodeReport("10.0.0.2", "data: /data/cars196 is not there", "", {})])
    assert "1 of 2 nodes" in str(refused.value) and "node 10.0.0.2: /data/cars196" in str(refused.value)
    with pytest.raises(ConfigError, match=r"10\.0\.0\.3: s3://bucket cannot be written"):
        require_alike([good, NodeReport("10.0.0.3", "s3://bucket cannot be written", "", {})])
    with pytest.raises(DataError, match="differs between nodes"):
        require_alike([good, NodeReport("10.0.0.4", "", "abd", {})])
    require_alike([good, NodeReport("10.0.0.5", "", "abc", {})])


def test_a_users_own_loss_travels_with_the_run_and_installed_packages_do_not(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text("class Mine: ...\n")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = {"trial": {"loss": {"name": "my_losses:Mine"}}, "space": {"loss.name": ["my_package.deep:Other"]}}
    assert own_modules(tree) == [tmp_path / "my_losses.py", tmp_path / "my_package"]
    assert own_modules({"loss": "torch.nn:Module", "uri": "http://host:5000", "other": "absent_package:X"}) == []
