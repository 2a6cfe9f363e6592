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

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec python -m torch.distributed.run \
    --nnodes="${NNODES:-${PET_NNODES:-1}}" \
    --node_rank="${NODE_RANK:-${PET_NODE_RANK:-0}}" \
    --master_addr="${MASTER_ADDR:-${PET_MASTER_ADDR:-127.0.0.1}}" \
    --master_port="${PORT:-${PET_MASTER_PORT:-${MASTER_PORT:-29500}}}" \
    --nproc_per_node="$3" \
    "$tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
