"""A Slurm cluster of several nodes on this machine: munged, slurmctld and slurmd as child processes of the test."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.processes import free_port, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("n1", "n2")
START_SECONDS = 60.0
_SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_CONFIGURATION = """\
ClusterName=ctxtune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
JobRequeue=1
KillWait=20
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=120 MaxTime=60 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    """What of Slurm this machine lacks; Debian has all of it in slurmctld, slurmd, slurm-client and munge."""
    return [name for name in PROGRAMS if shutil.which(name, path=_SYSTEM_PATH) is None]


@dataclass
class SlurmCluster:
    """A controller and its nodes, each with an address of its own on the loopback network."""

    folder: Path
    environment: dict[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, *command: str, folder: Path | None = None) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command, env=self.environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """A job's state: PENDING, RUNNING, COMPLETED ..."""
        return self.facts(job)["JobState"]

    def facts(self, job: str) -> dict[str, str]:
        """What the controller knows of a job."""
        words = self.call("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as file:
            self.daemons.append(
                subprocess.Popen(
                    command, env=self.environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
            )

    def stop(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            jobs = self.call("squeue", "--noheader", "--format=%i").split()
            if jobs:
                self.call("scancel", "--signal=KILL", "--full", *jobs)
                self.call("scancel", *jobs)
                wait_for(lambda: not self.call("squeue", "--noheader"), 60, "the end of all jobs", step=0.5)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def slurm_cluster(*, cpus: int = 4, gpus: int = 0) -> Iterator[SlurmCluster]:
    """Two nodes with so many CPUs and GPUs each, which Slurm only counts; partition `urgent` preempts `normal`."""
    folder = Path(tempfile.mkdtemp(prefix="ctxs", dir="/tmp"))  # short: sockets lie in it
    folder.chmod(0o755)  # munge looks
    _configure(folder, cpus, gpus)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
        "SLURM_CONF": f"{folder}/slurm.conf",
        "PATH": _SYSTEM_PATH,
    }
    cluster = SlurmCluster(folder, environment)
    try:
        cluster.start("munged", "munged", "--foreground", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
                      f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
                      f"--seed-file={folder}/munged.seed", "--force")  # fmt: skip
        wait_for(lambda: (folder / "munge.socket").exists(), START_SECONDS, "munged")
        cluster.start("slurmctld", "slurmctld", "-D", "-c")
        for name in NODES:
            cluster.start(f"slurmd-{name}", "slurmd", "-D", "-N", name)
        wait_for(lambda: _idle(cluster) == len(NODES), START_SECONDS, f"Slurm's nodes ({folder})", step=0.5)
        yield cluster
    finally:
        cluster.stop()


def _configure(folder: Path, cpus: int, gpus: int) -> None:
    host = os.uname().nodename
    text = _CONFIGURATION.format(folder=folder, host=host, user=getpass.getuser(), controller_port=free_port())
    for number, name in enumerate(NODES):
        text += (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.{number + 2} Port={free_port()} CPUs={cpus} "
            f"RealMemory=1000 Gres=gpu:{gpus} State=UNKNOWN\n"
        )
    (folder / "slurm.conf").write_text(text)
    devices = ("/dev/null", "/dev/zero", "/dev/full")[:gpus]  # Slurm wants a device for each, whatever it is
    lines = [f"NodeName={','.join(NODES)} Name=gpu File={device}\n" for device in devices]
    (folder / "gres.conf").write_text("".join(lines))
    (folder / "state").mkdir()
    for name in NODES:
        (folder / f"spool-{name}").mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))


def _idle(cluster: SlurmCluster) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition=normal", "--format=%T"],
        env=cluster.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.split().count("idle")
