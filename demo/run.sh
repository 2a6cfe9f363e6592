#!/usr/bin/env bash
# Sets up what is missing (see tools/setup_env.sh), then makes the demo data set, trains on it, evaluates and draws.
#
#   --panoptic              Panoptic-CenterMask, on images with stuff
#   --quick                 a few images and steps: shows that everything runs
#   --retrain               train again, even if a finished training is there
#   --work-dir DIR          folder of all results; default: work_dirs/demo, or demo_panoptic there
#   --data-root DIR         folder of the data set; default: data/demo, or demo_panoptic there
#   --cfg-options KEY=VALUE settings that override the config
set -euo pipefail

case "${1:-}" in
-h | --help)
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="$("$root/tools/setup_env.sh")"
# Images of containers set this: each step of the demo would compile the packages again.
unset PYTHONDONTWRITEBYTECODE
# Of the packages beneath, which warn each other of what they will change.
export PYTHONWARNINGS="${PYTHONWARNINGS-ignore}"
exec "$python" "$root/demo/run_demo.py" "$@"
