#!/usr/bin/env bash
# torchrun, for clusters and schedulers that are made for it. Run the same line on every host:
#
#   NODES=2 MASTER=node-a launch/torchrun.sh train --data VOCdevkit/VOC2012 --list train --recipe my.toml --out runs/ppl
#
# torchrun starts all ranks again after a failure (RESTARTS times, default 3); training continues by itself. NODES=1:2
# goes on with one host when the other is gone.
set -euo pipefail
arguments=("$@")
case "${1:-} ${2:-}" in
    train\ * | "refine train" | "segment train") arguments+=(--resume) ;;
esac
export CODES
CODES=$(mktemp -d)
trap 'rm -rf "$CODES"' EXIT

# torchrun would start again whatever a rank ended with. NOT_WORTH_A_RESTART of pplfast/cluster/launch.py (to be mended
# first, finished but for bad images, ended by a signal) is a good end to it, and becomes this script's exit code.
# shellcheck disable=SC2016  # expanded by each rank
rank='
    rm -f "$CODES/$LOCAL_RANK"
    pplfast "$@" &
    trap "kill $! 2> /dev/null" HUP INT TERM
    until code=0; wait $! || code=$?; ! kill -0 $! 2> /dev/null; do :; done
    case $code in 2 | 3 | 129 | 130 | 143) echo "$code" > "$CODES/$LOCAL_RANK"; code=0 ;; esac
    exit "$code"'
torchrun --nnodes "${NODES:-1}" --nproc-per-node "${RANKS:-gpu}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "${MASTER:-localhost}:${PORT:-29400}" --rdzv-id "${JOB:-pplfast}" \
    --no-python bash -c "$rank" pplfast "${arguments[@]}" &
trap 'ended=$((128 + $(kill -l HUP))); kill $! 2> /dev/null' HUP
trap 'ended=$((128 + $(kill -l INT))); kill $! 2> /dev/null' INT
trap 'ended=$((128 + $(kill -l TERM))); kill $! 2> /dev/null' TERM
until code=0; wait $! || code=$?; ! kill -0 $! 2> /dev/null; do :; done
[ -z "${ended:-}" ] || exit "$ended"
[ "$code" -ne 0 ] || code=$(sort -nr "$CODES"/* 2> /dev/null | head -n 1 || true)
exit "${code:-0}"
