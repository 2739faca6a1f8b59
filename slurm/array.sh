#!/bin/bash
# Independent sweeps, one for each line of a file, four at a time here:
#
#     sbatch --array=1-"$(wc -l < sweeps.txt)"%4 slurm/array.sh sweeps.txt
#
# A line: the sweep's name, its file, and any options of `python -m ctxtune.sweep`, quoted as for the shell:
#
#     cars-contextual  search_spaces/cars.yaml
#     cars-triplet     search_spaces/cars.yaml --set trial.loss.name=triplet
#
#SBATCH --job-name=ctxtune-array
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --output=ctxtune-array-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

trap '' USR1  # until the sweep listens to it
list=${1:-sweeps.txt}
line=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$list")
if [ -z "$line" ]; then
    echo "$list has no line $SLURM_ARRAY_TASK_ID" >&2
    exit 2
fi
eval "words=($line)"
exec python -m ctxtune.slurm.job --folder "results/${words[0]}" -- sweep "${words[@]:1}" --name "${words[0]}"
