#!/usr/bin/env bash
# Evaluate on several GPUs, or on several CPU processes where there is no GPU:
#   dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of test.py]
# Several machines: run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [flags of test.py]" >&2
    exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

rank=${NODE_RANK:-${PET_NODE_RANK:-0}}
port=${PORT:-${PET_MASTER_PORT:-${MASTER_PORT:-29500}}}
if [ "$rank" = 0 ] && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "error: port $port is in use on this machine: choose another, PORT=$((port + 1)) $0 ..." >&2
    exit 2
fi

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec python -m torch.distributed.run \
    --nnodes="${NNODES:-${PET_NNODES:-1}}" \
    --node_rank="$rank" \
    --master_addr="${MASTER_ADDR:-${PET_MASTER_ADDR:-127.0.0.1}}" \
    --master_port="$port" \
    --nproc_per_node="$3" \
    "$tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
