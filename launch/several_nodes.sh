#!/usr/bin/env bash
# Several hosts over ssh, started from one of them (or from any machine that reaches them).
#
#   HOSTFILE=hosts launch/several_nodes.sh train --data VOCdevkit/VOC2012 --list train --recipe my.toml --out runs/ppl
#
# Needs: the same installation and data under the same paths on all hosts, --out on a shared file system, ssh without
# a password. After a failure it goes on with the hosts that answer, up to RESTARTS times (default: 3).
# Where hosts have several networks, name the one to use:
#   NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0 HOSTFILE=hosts launch/several_nodes.sh ...
set -euo pipefail
exec pplfast launch --hostfile "${HOSTFILE:?name the host file: HOSTFILE=hosts $0 ...}" --restarts "${RESTARTS:-3}" "$@"
