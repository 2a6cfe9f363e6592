#!/usr/bin/env bash
# Sets up what is missing (see tools/setup_env.sh), then makes the demo data set, trains on it, evaluates and draws.
# Arguments go to demo/run_demo.py.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="$("$root/tools/setup_env.sh")"
# Of the packages beneath, which warn each other of what they will change.
export PYTHONWARNINGS="${PYTHONWARNINGS-ignore}"
exec "$python" "$root/demo/run_demo.py" "$@"
