#!/usr/bin/env bash
# Training on every GPU of this machine (or RANKS CPU ranks) under DeepSpeed's launcher.
#
#   launch/one_node.sh --data VOCdevkit/VOC2012 --list train --recipe my.toml --out runs/ppl
#   RANKS=2 DS_ACCELERATOR=cpu launch/one_node.sh ...
#
# The options are those of `pplfast train`; DeepSpeed's own settings (precision, ZeRO stage, batch) come from the
# recipe's [optim] table. Run it again with --resume after an interruption.
set -euo pipefail
ranks="${RANKS:-$(nvidia-smi -L 2>/dev/null | wc -l)}"
if [ "$ranks" -lt 1 ]; then
    echo "launch/one_node.sh: no GPU found; give the number of CPU ranks: RANKS=2 DS_ACCELERATOR=cpu $0 ..." >&2
    exit 2
fi
exec deepspeed --num_accelerators "$ranks" --module pplfast train "$@"
