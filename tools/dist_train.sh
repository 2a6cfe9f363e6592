#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes where there is no GPU:
#   dist_train.sh CONFIG PROCESSES [flags of train.py]
# Several machines: run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# MAX_RESTARTS=n starts the processes again up to n times after a crash, and they resume the training. The machines then
# find each other by themselves: NODE_RANK is not needed, and NNODES may be MIN:MAX.
# Variables that are not set are taken from those that Kubernetes' training operator sets (PET_NNODES, ...).
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [flags of train.py]" >&2
    exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

address=${MASTER_ADDR:-${PET_MASTER_ADDR:-127.0.0.1}}
port=${PORT:-${PET_MASTER_PORT:-${MASTER_PORT:-29500}}}
if [ -n "${MAX_RESTARTS:-${PET_RDZV_BACKEND:-}}" ]; then
    # A store of its own for each attempt: in a shared one, gloo finds the addresses of the processes that died.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    rendezvous=(--max_restarts="${MAX_RESTARTS:-${PET_MAX_RESTARTS:-0}}" --rdzv_backend="${PET_RDZV_BACKEND:-c10d}"
        --rdzv_id="${RDZV_ID:-${PET_RDZV_ID:-mmdet_sag}}" --rdzv_endpoint="${PET_RDZV_ENDPOINT:-$address:$port}")
else
    rank=${NODE_RANK:-${PET_NODE_RANK:-0}}
    if [ "$rank" = 0 ] && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        echo "error: port $port is in use on this machine: choose another, PORT=$((port + 1)) $0 ..." >&2
        exit 2
    fi
    rendezvous=(--node_rank="$rank" --master_addr="$address" --master_port="$port")
fi

# What a new torchrun needs to be told, and an old one does not know: which signals it hands on to the processes, and
# how many seconds they then have for their checkpoint.
# torchrun would also handle the SIGHUP that nohup ignores.
[ -n "$(trap -p HUP)" ] || hangup=SIGHUP,
export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,${hangup:-}SIGQUIT,SIGUSR1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"

# torchrun, which ends with a stack trace and status 1 after a signal, though the processes have ended in good order.
torchrun='
import sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main
try:
    main()
except SignalException as e:
    sys.exit(128 + e.sigval)
'
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec python -c "$torchrun" \
    --nnodes="${NNODES:-${PET_NNODES:-1}}" \
    --nproc_per_node="$2" \
    "${rendezvous[@]}" \
    "$tools/train.py" "$1" --launcher pytorch "${@:3}"
