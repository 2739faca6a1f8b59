#!/bin/bash
#SBATCH --job-name=cars-contextual
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

# Whatever ends the job early (the time limit, a job of higher priority), the sweep is told in time, writes down what it
# knows, and goes on with --resume when Slurm starts the job again.
trap '' USR1  # until the sweep listens to it
exec python -m ctxtune.slurm.job --folder results/cars-contextual -- sweep search_spaces/cars.yaml
