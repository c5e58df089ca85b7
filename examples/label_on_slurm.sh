#!/usr/bin/env bash
#SBATCH --job-name=label
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Label a folder of images on all GPUs of a Slurm job, one rank each.
#
#   sbatch examples/label_on_slurm.sh runs/photos/ppl/train photos photos/labels.csv labels --classes cat,dog
#
# Images that have their label are not done again: a requeued job, or the same command with other nodes, continues.
# Options behind the four names go to `pplfast label`: --classes, --crf, --outputs png,shards, --memory ...
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: $0 MODEL IMAGES LABELS.csv OUT [options of pplfast label]" >&2; exit 2; }
model=$1 images=$2 labels=$3 out=$4
shift 4
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts[0]}
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
code=0
# shellcheck disable=SC2016  # expanded by each task
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec pplfast label "$@"' pplfast \
    --model "$model" --data "$images" --labels "$labels" --out "$out" "$@" || code=$?
if [ "$code" -eq 3 ]; then # all but the images that cannot be used
    echo "$0: some images are bad; $out/manifest.jsonl says which, and why" >&2
    exit 0
fi
exit "$code"
