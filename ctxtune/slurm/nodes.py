"""The nodes of a Slurm job: their names, their addresses, free ports on them, and the step that starts Ray on each."""

import contextlib
import os
import random
import re
import socket
import subprocess
import sys

from ctxtune.errors import CtxtuneError

PORTS = range(20_000, 32_000)
"""Below those that Linux and Ray's workers take of their own accord."""


def allocated_nodes() -> list[str]:
    """The nodes of this job by name, the one that runs the batch script first."""
    names = os.environ.get("SLURM_JOB_NODELIST", "")
    if int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) < 2:
        return [names]
    return _asked("show", "hostnames", names).split()


def node_address(name: str) -> str:
    """The address by which Slurm itself reaches a node, as numbers: the others reach it by that one, too.

    Raises:
        CtxtuneError: Slurm knows none, or its name means nothing here.
    """
    match = re.search(r"\bNodeAddr=(\S+)", _asked("show", "node", name))
    text = match[1] if match else name
    try:
        return socket.getaddrinfo(text, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
    except OSError as error:
        raise CtxtuneError(f"node {name}: its address {text} cannot be looked up ({error.strerror or error})") from None


def free_port(address: str) -> int:
    """A port of this machine on which nothing listens, chosen at random: several jobs may start here at a time."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind((address, random.SystemRandom().choice(PORTS)))
            return int(listener.getsockname()[1])


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def ray_node_command(head: str, count: int) -> list[str]:
    """The job step that is Ray on all nodes: `ctxtune.slurm.node` once on each, with all that the job has there."""
    # Since 22.05 srun no longer takes over the batch script's --cpus-per-task.
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or "1"
    return [
        "srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}",
        "--kill-on-bad-exit=0", "--wait=0", "--label",
        sys.executable, "-m", "ctxtune.slurm.node", head,
    ]  # fmt: skip


def _asked(*words: str) -> str:
    """What scontrol answers. Raises CtxtuneError."""
    done = subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CtxtuneError(f"scontrol {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
