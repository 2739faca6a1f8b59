"""`python -m ctxtune.slurm.node HOST:PORT`: Ray on one node of a Slurm job, until it is told to end.

Ray's own `ray symmetric-run` starts a head and workers as well. It is not used: it refuses a node on which any other Ray runs,
ends every Ray of this user on the node with its own, does not pass signals on to its command, and reports success where Ray
does not start. Here ports are free ones, and files lie in a private folder: jobs may share a node.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ctxtune.command_line import run_command
from ctxtune.errors import CtxtuneError
from ctxtune.slurm.nodes import free_port, listens, node_address
from ctxtune.tuning.backend.local_ray import ray_folder

HEAD_SECONDS = 300
END_SECONDS = 20


def build_parser() -> argparse.ArgumentParser:
    """The command line of a node."""
    parser = argparse.ArgumentParser(prog="python -m ctxtune.slurm.node", description="Ray on one node of a Slurm job.")
    parser.add_argument("head", metavar="HOST:PORT", help="of Ray's head; the node with that address starts it")
    return parser


def main() -> int:
    """Run Ray here; the exit status."""
    head = build_parser().parse_args().head
    signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    address = node_address(os.environ["SLURMD_NODENAME"])
    host, _, port = head.rpartition(":")
    if address != host:
        _wait_for_head(host, int(port))
    with ray_folder(lambda text: None) as folder:
        process = subprocess.Popen(ray_command(head, address, folder / "ray"), stdout=subprocess.DEVNULL)
        try:
            return process.wait()
        except KeyboardInterrupt:  # SIGTERM, SIGUSR1
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return 0


def ray_command(head: str, address: str, folder: Path) -> list[str]:
    """The command that is Ray on this node: with the CPUs and GPUs that the job has here, on ports that are free."""
    host, _, port = head.rpartition(":")
    part = [
        "--head", f"--port={port}", f"--ray-client-server-port={free_port(address)}", "--include-dashboard=false",
        f"--dashboard-port={free_port(address)}",
    ]  # fmt: skip
    return [
        str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={address}",
        *(part if address == host else [f"--address={head}"]),
        f"--num-cpus={os.environ.get('SLURM_CPUS_ON_NODE', '1')}",
        f"--num-gpus={os.environ.get('SLURM_GPUS_ON_NODE') or 0}",
        f"--temp-dir={folder}", "--disable-usage-stats", f"--dashboard-agent-listen-port={free_port(address)}",
        # 0: free ones, where those that Ray's workers share by default may be taken by another job's.
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip


def _wait_for_head(host: str, port: int) -> None:
    end = time.monotonic() + HEAD_SECONDS
    while not listens(host, port):
        if time.monotonic() > end:
            raise CtxtuneError(f"Ray's head at {host}:{port} does not answer within {HEAD_SECONDS} s")
        time.sleep(0.5)


if __name__ == "__main__":
    run_command(main)
