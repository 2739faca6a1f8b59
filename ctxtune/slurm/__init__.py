"""Sweeps and ablations as Slurm jobs: batch scripts that are requeued and go on by themselves.

`options` reads ``--slurm``, `script` writes the batch script, `submission` hands it to sbatch. Inside the job `job` drives the
command, and `node` is Ray on each of several nodes.
"""
