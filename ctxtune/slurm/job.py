"""`python -m ctxtune.slurm.job --folder RESULTS -- sweep FILE ...`: what a batch script runs on the first node of its job.

Starts Ray on the nodes where there are several, and the command. Goes on with ``--resume`` where Slurm has started the job
again. Told that the job is to end (SIGUSR1 by ``#SBATCH --signal=B:USR1@120``, or SIGTERM), it has the command end in order
and puts the job back into the queue.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctxtune.command_line import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_USER_ERROR, run_command
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.slurm.nodes import allocated_nodes, free_port, listens, node_address, ray_node_command

STARTED_FILES = ("space.yaml", "ablation.yaml")
"""One of them lies in a results folder as soon as there is something to resume."""
LOCK_SECONDS = 180
"""How long a file server may take to free the lock of a machine that has died: with NFS version 4, its lease of 90 s."""
JOIN_SECONDS = 300
END_SECONDS = 60
_FINAL = (0, EXIT_USER_ERROR, EXIT_INCOMPLETE)


class Notice:
    """The signal by which Slurm has announced the job's end, if it has."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.command: subprocess.Popen[bytes] | None = None

    def receive(self, number: int, frame: object) -> None:
        """Handle a signal: the command is told once."""
        first, self.signal = self.signal is None, number
        if first and self.command is not None and self.command.poll() is None:
            self.command.send_signal(signal.SIGTERM)


def build_parser() -> argparse.ArgumentParser:
    """The command line of a job."""
    parser = argparse.ArgumentParser(
        prog="python -m ctxtune.slurm.job",
        description="Run a command inside a Slurm job, over its nodes; put the job back into the queue when its time is over.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="results of the sweep or ablation: DIR/NAME")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --: sweep FILE ... or ablate FILE ...")
    return parser


def main() -> int:
    """Run the job; the exit status."""
    arguments = build_parser().parse_args()
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise ConfigError("this runs inside a Slurm job only (SLURM_JOB_ID is not set): hand its script to sbatch")
    notice = Notice()
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, notice.receive)
    _use_local_folders()
    command = [sys.executable, "-m", f"ctxtune.{arguments.command[0]}", *arguments.command[1:]]
    if _started_again(arguments.folder):
        _wait_for_lock(arguments.folder / "lock")
        command.append("--resume")
    with _ray_nodes(notice) as head:
        status = _run(command if head is None else [*command, "--address", head], notice)
    if notice.signal is None or status in _FINAL:
        return status
    return _requeue(job, notice.signal, status)


def _started_again(folder: Path) -> bool:
    again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return again and any((folder / name).exists() for name in STARTED_FILES)


def _wait_for_lock(file: Path) -> None:
    """Until nobody holds the lock of a results folder: a machine that has died may hold it for a while."""
    from ctxtune.locks import lock_for_certain

    end = time.monotonic() + LOCK_SECONDS
    with contextlib.suppress(OSError), file.open("a") as opened:
        while not lock_for_certain(opened) and time.monotonic() < end:
            time.sleep(1)


def _use_local_folders() -> None:
    """Caches on the node's own disk, one for each user; Slurm's own temporary folder where there is one."""
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    os.environ.setdefault("CTXTUNE_CACHE", str(folder / f"ctxtune-cache-{os.getuid()}"))


def _run(command: Sequence[str], notice: Notice) -> int:
    """Run the sweep or ablation to its end, unless the job's end was announced before it began."""
    if notice.signal is not None:
        return EXIT_INTERRUPTED
    process = subprocess.Popen(command)
    notice.command = process
    if notice.signal is not None:  # between the two lines above
        process.send_signal(signal.SIGTERM)
    return process.wait()


@contextlib.contextmanager
def _ray_nodes(notice: Notice) -> Iterator[str | None]:
    """Ray on all nodes of the job; the address of its head. None where there is one node, on which a sweep has its own."""
    nodes = allocated_nodes()
    if len(nodes) < 2:
        yield None
        return
    address = node_address(nodes[0])
    head = f"{address}:{free_port(address)}"
    # Whoever reaches Ray's ports and has no token gets nothing done. Only this user can read a process's environment.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    step = subprocess.Popen(ray_node_command(head, len(nodes)))
    try:
        _wait_for_ray(head, step, notice)
        yield head
    finally:
        step.send_signal(signal.SIGUSR1)  # which srun hands on; told by SIGTERM it would kill
        with contextlib.suppress(subprocess.TimeoutExpired):
            step.wait(END_SECONDS)
        step.terminate()


def _wait_for_ray(head: str, step: "subprocess.Popen[bytes]", notice: Notice) -> None:
    """Until the head answers. The other nodes join when they do: a sweep starts on those that are there."""
    host, _, port = head.rpartition(":")
    end = time.monotonic() + JOIN_SECONDS
    while notice.signal is None and not listens(host, int(port)):
        if step.poll() is not None or time.monotonic() > end:
            raise CtxtuneError(
                f"Ray has not started on the nodes of this job (within {JOIN_SECONDS} s, at {head}); what srun and Ray say "
                "stands above"
            )
        time.sleep(0.2)


def _requeue(job: str, number: int, status: int) -> int:
    """Put the job back into the queue, unless it was canceled."""
    name = signal.Signals(number).name
    if number == signal.SIGTERM and not _running(job):
        return status
    scontrol = shutil.which("scontrol") or "scontrol"
    _tell(f"ctxtune: told by {name} that this job ends; it is put back into the queue and goes on by itself")
    done = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return 0
    _tell(f"ctxtune: Slurm does not requeue this job ({done.stderr.strip()}); submit it again with --resume")
    return status or EXIT_INTERRUPTED


def _running(job: str) -> bool:
    """Whether Slurm still counts this job as running: one that was canceled is on its way out."""
    done = subprocess.run(
        ["squeue", "--noheader", "--format=%T", "--job", job], capture_output=True, text=True, check=False
    )
    return done.stdout.split()[:1] == ["RUNNING"]


def _tell(text: str) -> None:
    sys.stderr.write(text + os.linesep)
    sys.stderr.flush()


if __name__ == "__main__":
    run_command(main)
