#!/usr/bin/env bash
# Sets up what is missing (see tools/setup_env.sh), then runs the whole test suite: ruff, mypy and pytest.
# Arguments go to pytest, which runs files of tests side by side: tests/run.sh tests/models -k attention
# The exit status is 0 only if everything passed.
set -euo pipefail

case "${1:-}" in
-h | --help)
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="$("$root/tools/setup_env.sh")"
cd "$root"
# Images of containers set this: each process of the tests would compile 4,000 modules again, 9 of its 15 seconds.
unset PYTHONDONTWRITEBYTECODE

status=0
"$python" -m ruff check . || status=1
"$python" -m ruff format --check . || status=1
# Beside the tests, which take longer.
types="$(mktemp)"
trap 'rm -f "$types"' EXIT
"$python" -m mypy >"$types" 2>&1 &
# A thread for each: most tests are too small for more.
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" \
    "$python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@" || status=$?
wait $! || status=1
cat "$types"
exit "$status"
