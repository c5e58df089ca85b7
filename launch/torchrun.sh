#!/usr/bin/env bash
# torchrun, for clusters and schedulers that are made for it. Run the same line on every host:
#
#   NODES=2 MASTER=node-a launch/torchrun.sh train --data VOCdevkit/VOC2012 --list train --recipe my.toml --out runs/ppl
#
# torchrun starts all ranks again after a failure (RESTARTS times, default 3); training continues by itself. NODES=1:2
# goes on with one host when the other is gone.
set -euo pipefail
arguments=("$@")
[ "${1:-}" = train ] && arguments+=(--resume)
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${RANKS:-gpu}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "${MASTER:-localhost}:${PORT:-29400}" --rdzv-id "${JOB:-pplfast}" \
    --module pplfast "${arguments[@]}"
