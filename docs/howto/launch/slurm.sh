#!/bin/bash
# One process a node, each with all GPUs of its node: sbatch docs/howto/launch/slurm.sh
#SBATCH --job-name=cifp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail

: "${DATA:?the folder that holds LA/ on a disk that all nodes see}"
: "${RUNS:?a folder for runs on such a disk}"

# Scans are read again and again: each node gets them on its own disk.
stage="${TMPDIR:-/tmp}/cifp_data"
srun bash -c "mkdir -p '$stage' && rsync --archive '$DATA/LA' '$stage/'"

# JAX finds the processes by Slurm's variables, and takes one GPU for each unless it is told more.
export JAX_LOCAL_DEVICE_IDS=0,1,2,3
status=0
srun python -m cifp_jax.main --config=la --config.data.root="$stage/LA" \
  --workdir="$RUNS/la" --distributed \
  --config.data.batch_labeled=8 --config.data.batch_unlabeled=8 || status=$?

# 75: stopped by a signal and saved. The job starts again where it stopped.
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$status"
