#!/usr/bin/env bash
# A training on several nodes under SLURM. Put it in the queue with what the cluster asks for:
#
#   sbatch --nodes 2 --gpus-per-node 4 --ntasks-per-node 4 --cpus-per-task 10 --time 12:00:00 \
#       examples/train_slurm.sh video CACHE runs/video --data.batch_size 4
#
#   $1  the recipe (landmark, emotion, video, multi/video, paper/video, ... or a file)
#   $2  the cache, $3 the run's folder: every node sees both under these names
#   ... anything else goes to `talkhead fit`; data.batch_size is the batch of one process
#
# One task is one process is one card. Before the time is up SLURM sends SIGUSR1: Lightning is to save where it is and put
# the job into the queue again, where the same line goes on. A node that dies ends the job; put it in again by hand.
# It has not been run on a cluster yet.
#SBATCH --job-name=talkhead
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

recipe=${1:?give the recipe, such as video} cache=${2:?give the CACHE} run=${3:?give the folder of the RUN}
shift 3
card=()
[ "${SLURM_GPUS_ON_NODE:-0}" != 0 ] && card=(--config gpu)
exec srun --kill-on-bad-exit=1 talkhead fit --config "$recipe" "${card[@]}" --data.root "$cache" \
    --trainer.default_root_dir "$run" --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.strategy ddp --ckpt_path last "$@"
