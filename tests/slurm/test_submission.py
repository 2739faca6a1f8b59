"""`--slurm` up to sbatch: options, their errors, the script, and what is refused before anything is written."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from ctxtune.errors import ConfigError
from ctxtune.slurm import job
from ctxtune.slurm.options import SlurmOptions, parse_options, seconds
from ctxtune.slurm.script import JobCommand, batch_script
from ctxtune.tuning.backend.local_ray import usable_cpus
from tests.helpers.processes import run_here
from tests.helpers.sweeps import sweep_here

EXAMPLES = {
    "one_node.sh": "gpus_per_node=4,cpus_per_task=32,time=12:00:00",
    "several_nodes.sh": "nodes=4,gpus_per_node=8,cpus_per_task=64,time=12:00:00",
}


def test_options_are_sbatchs_own_with_defaults_that_feed_a_gpu():
    options = parse_options("nodes=4, gpus-per-node=a100:8,time=1-12:00:00,constraint=[a,b],mem=0")
    assert (options.nodes, options.gpus, options.cpus, options.constraint) == (4, 8, 32, "[a,b]")
    assert (options.signal, options.mem) == (120, "0")
    assert parse_options("") == SlurmOptions()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nods=3", "unknown option 'nods'; did you mean \"nodes\"?"),
        ("array=1-3", "unknown option 'array'; there are: account, constraint, cpus_per_task"),
        ("nodes", "nodes: expected nodes=VALUE; found 'nodes'"),
        ("nodes=2,nodes=3", "nodes is given twice"),
        ("nodes=0", "nodes: expected a number above 0; found '0'"),
        ("nodes=two", "nodes: expected a whole number; found 'two'"),
        ("gpus_per_node=a100", "gpus_per_node: expected a number of GPUs, or TYPE:NUMBER as in a100:4; found 'a100'"),
        ("mem=5Q", "mem: expected a number with K, M, G or T, as in 64G; found '5Q'"),
        ("time=soon", "time: expected HOURS:MINUTES:SECONDS"),
        ("time=3", "time=3 leaves nothing to work in"),
        ("setup=/nowhere.sh", "setup: expected a shell file that is read first; there is no file /nowhere.sh"),
        ("partition=a b;rm", "partition: expected text of the form"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(text, expected):
    with pytest.raises(ConfigError, match=re.escape(f"--slurm: {expected}")):
        parse_options(text)


@pytest.mark.parametrize(
    ("text", "number"), [("90", 5400), ("10:30", 630), ("2-0", 172800), ("1-2:3:4", 93784), ("1:2:3:4", 0), ("", 0)]
)
def test_times_are_read_as_slurm_reads_them(text, number):
    assert seconds(text) == number


def test_the_scripts_in_the_repository_are_what_the_command_writes(repository):
    for name, text in EXAMPLES.items():
        options = parse_options(text)
        words = ["sweep", "search_spaces/cars.yaml", *(["--storage", "/nfs/YOU/sweeps"] if options.nodes > 1 else [])]
        script = batch_script(
            JobCommand("python", words, "cars-contextual", Path("results/cars-contextual"), "%x-%j.log"), options
        )
        assert (repository / "slurm" / name).read_text() == script


@pytest.mark.parametrize("name", ["one_node.sh", "several_nodes.sh", "array.sh"])
def test_scripts_are_bash(repository, name):
    done = subprocess.run(["bash", "-n", repository / "slurm" / name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_each_task_of_the_array_runs_the_sweep_of_its_own_line(repository, tmp_path):
    (tmp_path / "sweeps.txt").write_text("first  a.yaml\nsecond b.yaml --set 'trial.loss.name=my loss'\n")
    tools = tmp_path / "bin"
    write_program(tools / "python", 'printf "<%s>" "$@"')
    for task, expected in (
        ("1", "<results/first><--><sweep><a.yaml><--name><first>"),
        ("2", "<results/second><--><sweep><b.yaml><--set><trial.loss.name=my loss><--name><second>"),
    ):
        done = subprocess.run(
            ["bash", repository / "slurm/array.sh", "sweeps.txt"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env={"PATH": f"{tools}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": task},
        )  # fmt: skip
        assert done.stdout == f"<-m><ctxtune.slurm.job><--folder>{expected}", done.stderr
    done = subprocess.run(
        ["bash", repository / "slurm/array.sh", "sweeps.txt"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{tools}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3"},
    )  # fmt: skip
    assert done.returncode == 2 and "sweeps.txt has no line 3" in done.stderr


def test_a_dry_run_prints_the_script_and_writes_nothing(repository, tmp_path):
    done = sweep_here(
        repository, tmp_path, "--dry-run", "--resume", "--slurm", "nodes=2,gpus_per_node=1", overrides=["search.trials=9"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results/quickstart"
    assert f"#SBATCH --output={folder}/slurm/%j.log" in done.stdout
    assert "#SBATCH --signal=B:USR1@120" in done.stdout and "#SBATCH --requeue" in done.stdout
    assert "--set search.trials=9" in done.stdout and done.stdout.rstrip().endswith("--resume")
    assert f"--storage {folder}/checkpoints" in done.stdout
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_is_said_before_a_job_waits_in_the_queue(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch there

    def refused(*arguments: str, overrides: tuple[str, ...] = ()) -> str:
        done = sweep_here(repository, tmp_path, *arguments, overrides=overrides)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    assert "there is no sbatch on this machine" in refused("--slurm", "nodes=1")
    assert "leave out --address" in refused("--slurm", "nodes=1", "--address", "auto")
    assert "leave one of them out" in refused("--slurm", "nodes=1", "--assume", "images_per_second=9,gpus=1")
    secret = refused("--slurm", "nodes=1", overrides=("tracking.uri=https://me:hush@host",))
    assert "its password or key would be written into the batch script" in secret and "hush" not in secret
    asked = refused("--slurm", "gpus_per_node=2", overrides=("resources.gpus=4",))
    assert "one run asks for 4 gpus on one node (resources.gpus), but a node of this job has 2" in asked
    folder = tmp_path / "results/quickstart"
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("{}\n")
    assert "quickstart was started here before; go on with it by --resume" in refused("--slurm", "nodes=1")


def test_what_sbatch_says_is_passed_on_and_its_job_is_named(repository, tmp_path, monkeypatch):
    sbatch = tmp_path / "bin/sbatch"
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    write_program(sbatch, 'echo "sbatch: error: invalid partition specified: ${SLURM_JOB_ID:-none}" >&2; exit 1')
    done = sweep_here(repository, tmp_path, "--slurm", "partition=nowhere", overrides=[])
    assert done.returncode == 2
    assert "sbatch refuses the job: error: invalid partition specified: none" in done.stderr
    write_program(sbatch, 'cat "$2" > seen; echo "4711;cluster"')
    done = sweep_here(repository, tmp_path, "--slurm", "nodes=2", overrides=[])
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith("job 4711: quickstart on 2 nodes")
        and "tail -F results/quickstart/slurm/4711.log" in done.stdout
    )
    script = tmp_path / "results/quickstart/slurm/job.sh"
    assert (tmp_path / "seen").read_text() == script.read_text()


def test_a_sweep_has_one_job_at_a_time(repository, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    write_program(programs / "sbatch", 'echo "$2" >> submitted; echo 4712')
    script = tmp_path / "results/quickstart/slurm/job.sh"
    write_program(programs / "squeue", f'echo "4710 {tmp_path}/results/another/slurm/job.sh"; echo "4711 {script}"')
    done = sweep_here(repository, tmp_path, "--slurm", "nodes=1", overrides=[])
    assert done.returncode == 2 and not (tmp_path / "submitted").exists()
    assert "job 4711 of" in done.stderr and "scancel 4711, then --resume" in done.stderr
    write_program(programs / "squeue", "echo squeue: error >&2; exit 1")
    assert sweep_here(repository, tmp_path, "--slurm", "nodes=1", overrides=[]).returncode == 0


def test_a_job_is_run_by_slurm_only(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    done = run_here(job.main, tmp_path, "--folder", "results/x", "--", "sweep", "quickstart")
    assert done.returncode == 2 and "inside a Slurm job only (SLURM_JOB_ID is not set)" in done.stderr


def test_ray_counts_the_cpus_of_the_job_not_those_of_the_machine(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert usable_cpus() == (1 if os.cpu_count() != 1 else None)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert (usable_cpus() or os.cpu_count()) == len(os.sched_getaffinity(0))


def write_program(file: Path, body: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
