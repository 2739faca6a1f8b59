"""The files in docker/, by every check that needs no Docker engine and no cloud."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_spec
import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from sqlalchemy import make_url

from tests.helpers.processes import PATIENCE

KUBERNETES = "1.33"


class _Loader(yaml.SafeLoader):
    """Compose's own tag on top of the safe loader."""


_Loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=_Loader)


def composed(path: Path) -> Any:
    """A compose file as Docker reads it without settings: variables at their defaults, merge keys filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text()).replace("$$", "$")
    return yaml.load(text, Loader=_Loader)


@pytest.fixture
def docker(repository) -> Path:
    return repository / "docker"


def test_dockerfiles_pass_hadolint(docker):
    hadolint = Path(sys.executable).parent / "hadolint"
    files = [docker / "Dockerfile", *(docker / "stand_ins").glob("*.Dockerfile")]
    done = subprocess.run([hadolint, "--no-color", *files], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_hadolint_finds_what_is_wrong(tmp_path):
    """The check above is not blind."""
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /x && pip install torch\n")
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0 and "DL3006" in done.stdout


def test_shell_scripts_are_bash_and_the_image_needs_no_frontend_from_a_registry(docker):
    for script in (docker / "make_secrets.sh", *(docker / "stand_ins").glob("*.sh")):
        subprocess.run(["bash", "-n", script], check=True, timeout=60)
    assert "# syntax=" not in (docker / "Dockerfile").read_text()


def test_the_image_runs_as_nobody_special_with_a_health_check_and_no_secret(docker):
    text = (docker / "Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000"
    assert re.search(r"^HEALTHCHECK .*local_raylet_healthz", text, re.MULTILINE | re.DOTALL)
    assert not re.search(r"(ARG|ENV)\s+\S*(TOKEN|PASSWORD|SECRET|ACCESS_KEY)", text)
    stages = re.findall(r"^FROM (\S+) AS (\w+)", text, re.MULTILINE)
    assert [name for _, name in stages] == ["dependencies", "package", "final"]
    assert all(
        re.fullmatch(r"ARG PYTHON=\d+\.\d+\.\d+-\S+", line) for line in text.splitlines() if "ARG PYTHON" in line
    )


def test_what_the_image_copies_is_there_and_let_through(docker, repository):
    text = (docker / "Dockerfile").read_text()
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]
    ]
    let_through = [line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for source in sources:
        assert (repository / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in let_through), source
    assert not any(pattern.startswith(("docker/secrets", "data", "results", ".git")) for pattern in let_through)


def test_every_pin_is_exact_and_is_what_the_tests_ran_with(docker):
    sys.path.insert(0, str(docker))
    try:
        import pin
    finally:
        sys.path.pop(0)
    asked = {requirement.split("[")[0].split(">")[0].lower() for requirement in pin.own_requirements()}
    for file in ("requirements.txt", "requirements-torch.txt", "requirements-gpu.txt", "requirements-cpu.txt"):
        lines = [line for line in (docker / file).read_text().splitlines() if line and line[0] != "#"]
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][^ ;]*", line) for line in lines), file
        asked -= {line.partition("==")[0] for line in lines}
    assert not asked, f"not pinned: {asked}; run docker/pin.py"


@pytest.mark.parametrize("file", ["compose.yaml", "compose.cpu.yaml"])
def test_compose_files_meet_the_compose_specification(docker, file):
    compose_spec.PyCompose.from_json(json.dumps(composed(docker / file)))


def test_the_image_has_the_driver_of_mlflows_database(docker):
    """SQLAlchemy 2.1 takes `postgresql://` for psycopg 3, which the image has not."""
    uri = re.search(r"--backend-store-uri (\S+)", (docker / "compose.yaml").read_text())
    assert uri is not None
    driver = make_url(uri[1]).get_dialect().import_dbapi().__name__
    assert f"{driver}-binary==" in (docker / "requirements.txt").read_text()


def test_a_misspelt_compose_key_is_found(docker):
    broken = composed(docker / "compose.yaml")
    broken["services"]["ray-head"]["prts"] = ["127.0.0.1:8265:8265"]
    with pytest.raises(ValueError, match="prts"):
        compose_spec.PyCompose.from_json(json.dumps(broken))


def test_compose_keeps_ports_on_loopback_data_in_volumes_and_secrets_in_files(docker):
    tree = load(docker / "compose.yaml")
    services = tree["services"]
    assert {"ray-head", "ray-worker", "mlflow", "postgres", "store"} <= set(services)
    for name, service in services.items():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "env_file" not in service
        for key, value in service.get("environment", {}).items():
            secret = any(word in key for word in ("PASSWORD", "SECRET", "TOKEN", "CREDENTIALS"))
            assert not secret or str(value).startswith("/run/secrets/"), f"{name}: {key}"
        assert set(service.get("secrets", [])) <= set(tree["secrets"])
        volumes = [str(volume).split(":")[0] for volume in service.get("volumes", [])]
        assert all(volume in tree["volumes"] or volume.startswith(("$", ".")) for volume in volumes)
        image = service["image"]
        assert image.startswith("ctxtune:") or re.search(r":[A-Z]*\.?\d", image), f"{name}: {image} is not pinned"
    for name in ("postgres", "store", "ray-head"):
        assert any(str(volume).split(":")[0] in tree["volumes"] for volume in services[name]["volumes"])
    for name in ("ray-head", "ray-worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_containers_of_the_image_can_write_no_root_and_have_no_privileges(docker):
    own = {
        name: each for name, each in load(docker / "compose.yaml")["services"].items() if "ctxtune:" in each["image"]
    }
    assert set(own) == {"ray-head", "ray-worker", "mlflow", "buckets"}
    for name, service in own.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_secrets_are_made_once_and_differ_each_time(docker, tmp_path):
    seen = []
    for place in ("first", "second"):
        folder = tmp_path / place
        folder.mkdir()
        script = folder / "make_secrets.sh"
        script.write_text((docker / "make_secrets.sh").read_text())
        for _ in range(2):
            subprocess.run(["sh", str(script)], check=True, capture_output=True, timeout=30)
            seen.append({file.name: file.read_text() for file in sorted((folder / "secrets").iterdir())})
        assert (folder / "secrets").stat().st_mode & 0o077 == 0
    assert seen[0] == seen[1] and seen[2] == seen[3]
    wanted = set(load(docker / "compose.yaml")["secrets"])
    assert set(seen[0]) == wanted
    assert all(seen[0][name] != seen[2][name] and len(seen[0][name]) >= 15 for name in wanted)


def test_secrets_and_settings_are_never_committed(repository, docker):
    for path in ("docker/secrets/ray_token", "docker/.env"):
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=repository, timeout=30)
        assert ignored.returncode == 0, path


@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml"])
def test_launcher_files_pass_rays_own_check(docker, file):
    tree = load(docker / "launcher" / file)
    validate_config(prepare_config(copy.deepcopy(tree)))
    types = tree["available_node_types"]
    assert types["gpu_spot"]["min_workers"] == types["gpu_on_demand"]["min_workers"] == 0
    assert list(types).index("gpu_spot") < list(types).index("gpu_on_demand")
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    text = (docker / "launcher" / file).read_text()
    assert (
        "RAY_AUTH_MODE=token" in text
        and "--dashboard-host=127.0.0.1" in text
        and "mlflow server --host 127.0.0.1" in text
    )
    spot, on_demand = (str(types[name]["node_config"]) for name in ("gpu_spot", "gpu_on_demand"))
    assert "spot" in spot.lower() and "spot" not in on_demand.lower()


@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml"])
@pytest.mark.parametrize("wrong", [{"max_wokers": 3}, {"head_node_type": "brain"}, {"idle_timeout_minutes": "soon"}])
def test_rays_check_finds_what_is_wrong(docker, file, wrong):
    tree = {**load(docker / "launcher" / file), **wrong}
    with pytest.raises(Exception, match=r"max_wokers|head_node_type|brain|idle_timeout|soon|schema"):
        validate_config(prepare_config(tree))


def cluster_spec(docker: Path, file: str) -> dict[str, Any]:
    tree = load(docker / "kuberay" / file)
    return tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]


def pod_templates(docker: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for file in ("raycluster.yaml", "rayjob.yaml"):
        spec = cluster_spec(docker, file)
        groups = [("head", spec["headGroupSpec"]), *((group["groupName"], group) for group in spec["workerGroupSpecs"])]
        found += [(f"{file}: {name}", group["template"]) for name, group in groups]
    found.append(("rayjob.yaml: submitter", load(docker / "kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]))
    return found


def as_resource(name: str, template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "check"}, "template": template}


def test_pods_pass_kubernetes_strict_schema(docker):
    for name, template in pod_templates(docker):
        kubernetes_validate.validate(as_resource(name, template), KUBERNETES, strict=True)
    for claim in yaml.safe_load_all((docker / "kuberay/volumes.yaml").read_text()):
        kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    broken = copy.deepcopy(pod_templates(docker)[0][1])
    broken["spec"]["containers"][0]["resorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(as_resource("broken", broken), KUBERNETES, strict=True)


def test_both_manifests_describe_the_same_cluster(docker):
    assert cluster_spec(docker, "raycluster.yaml") == cluster_spec(docker, "rayjob.yaml")


def autoscaling_config(docker: Path, change=lambda spec: None) -> dict[str, Any]:
    tree = copy.deepcopy(load(docker / "kuberay/raycluster.yaml"))
    tree["metadata"]["namespace"] = "default"
    change(tree["spec"])
    config = _derive_autoscaling_config_from_ray_cr(tree)
    validate_config(config)
    return config


def test_rays_autoscaler_reads_the_kuberay_manifest(docker):
    config = autoscaling_config(docker)
    types = config["available_node_types"]
    assert types["gpu-spot"]["resources"]["GPU"] == types["gpu-on-demand"]["resources"]["GPU"] == 1
    assert types["gpu-spot"]["min_workers"] == 0 and types["gpu-spot"]["max_workers"] == 8
    assert types["headgroup"]["resources"]["CPU"] == 0

    def without_limits(spec):
        spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].pop("resources")

    with pytest.raises(Exception, match="resource"):
        autoscaling_config(docker, without_limits)
    with pytest.raises(Exception):  # noqa: B017 - whatever Ray says to a missing bound
        autoscaling_config(docker, lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas"))


def test_the_rayjob_meets_kuberays_own_schema(docker):
    """That of the oldest version that the docs name. The cluster in it is raycluster.yaml's, pods are checked above."""
    schema = jsonschema.Draft202012Validator(json.loads(Path(__file__).with_name("kuberay_rayjob.json").read_text()))
    spec = load(docker / "kuberay/rayjob.yaml")["spec"]
    schema.validate(spec)
    wrong: list[Callable[[Any], object]] = [
        lambda spec: spec.update(backofLimit=3),
        lambda spec: spec.update(backoffLimit="3"),
        lambda spec: spec["rayClusterSpec"]["autoscalerOptions"].update(version="v3"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("template"),
    ]
    for change in wrong:
        broken = copy.deepcopy(spec)
        change(broken)
        assert not schema.is_valid(broken)


def test_kuberay_pods_have_gpus_tolerations_shared_memory_and_secrets_by_reference_only(docker):
    spec = cluster_spec(docker, "raycluster.yaml")
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    spot = next(group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu-spot")["template"]["spec"]
    assert {"cloud.google.com/gke-spot", "nvidia.com/gpu"} <= {item["key"] for item in spot["tolerations"]}
    for name, template in pod_templates(docker):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        (container,) = pod["containers"]
        assert container["resources"]["limits"]
        for entry in container.get("env", []):
            assert not any(word in entry["name"] for word in ("TOKEN", "PASSWORD", "SECRET", "ACCESS_KEY"))
        if "submitter" not in name:
            assert container["envFrom"] == [{"secretRef": {"name": "ctxtune-secrets", "optional": True}}]
            memory = next(volume for volume in pod["volumes"] if volume["name"] == "shared-memory")
            assert memory["emptyDir"]["medium"] == "Memory"
    assert "LoadBalancer" not in str(spec) and "NodePort" not in str(spec)


def test_the_versions_of_image_and_manifests_agree(docker):
    ray = re.search(r"^ray==(\S+)$", (docker / "requirements.txt").read_text(), re.MULTILINE)
    assert ray and cluster_spec(docker, "raycluster.yaml")["rayVersion"] == ray[1]


def test_the_job_resumes_a_sweep_that_an_earlier_try_began(docker, tmp_path):
    """The entrypoint's shell, run for real with a stand-in for python that prints its arguments."""
    entrypoint = load(docker / "kuberay/rayjob.yaml")["spec"]["entrypoint"]
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    results = tmp_path / "results"
    text = entrypoint.replace("/results", str(results))

    def arguments() -> str:
        done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "--resume" not in arguments()
    (results / "cars-contextual").mkdir(parents=True)
    (results / "cars-contextual/space.yaml").write_text("name: cars-contextual\n")
    assert arguments().strip().endswith("--resume")
