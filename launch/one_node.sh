#!/usr/bin/env bash
# All GPUs of this machine, or RANKS of them; RANKS CPU ranks where there is none.
#
#   launch/one_node.sh train --data VOCdevkit/VOC2012 --list train --recipe my.toml --out runs/ppl
#   RANKS=2 DS_ACCELERATOR=cpu launch/one_node.sh train ...
#
# The arguments are those of `pplfast` (train, label, ...). RESTARTS=N starts again up to N times after a failure.
set -euo pipefail
ranks="${RANKS:-$(nvidia-smi -L 2>/dev/null | wc -l)}"
if [ "$ranks" -lt 1 ]; then
    echo "launch/one_node.sh: no GPU found; give the number of CPU ranks: RANKS=2 DS_ACCELERATOR=cpu $0 ..." >&2
    exit 2
fi
exec pplfast launch --ranks "$ranks" --restarts "${RESTARTS:-0}" "$@"
