#!/usr/bin/env bash
# Makes the Python environment of this clone and prints the path of its interpreter on standard output; messages go to
# standard error. A finished environment is only checked, within a second. After an interruption, run this again.
#
# Environment variables:
#   PYTHON            the Python to make the environment with (3.10 to 3.13); default: python3.11 in PATH, else another
#   MMDET_SAG_VENV    the folder of the environment; default: .venv in this clone
#   TORCH_VERSION     another torch than the pinned one, 2.1 or newer and older than 2.16
#   TORCH_INDEX_URL   pip's index for torch and torchvision, e.g. https://download.pytorch.org/whl/cpu for builds
#                     without CUDA
#   USE_ACTIVE_ENV=1  make no environment: add what is missing to that of the `python` in PATH (or PYTHON), and keep
#                     its torch and mmcv. An mmcv with compiled operators, OpenMMLab's or your own, works this way.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
pinned="$root/requirements/pinned.txt"
pinned_torch="$(sed -n 's/^torch==//p' "$pinned")"
torch_version="${TORCH_VERSION:-$pinned_torch}"
venv="${MMDET_SAG_VENV:-$root/.venv}"
operators="${MMDET_SAG_OPERATORS:-auto}"

say() { printf '[setup] %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
trap 'say "interrupted; run this again to go on"; exit 130' INT TERM

case "${1:-}" in
'') ;;
-h | --help)
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
*) die "unknown argument '$1': options are environment variables, see $0 --help" ;;
esac
case "$operators" in
auto | torchvision | mmcv) ;;
*) die "MMDET_SAG_OPERATORS=$operators is not known: set it to auto, mmcv or torchvision" ;;
esac

# What the environment depends on.
stamp_of() {
    {
        printf '%s\n' "$root" "$torch_version" "$("$1" -VV 2>&1)"
        (cd "$root" && cat requirements.txt requirements/tests.txt requirements/pinned.txt setup.py)
    } | cksum
}

# These two look at files only: importing torch and mmcv takes seconds.
looks_complete() {
    "$1" - "$root" 2>/dev/null <<'PY'
import sys
from importlib.metadata import version
from importlib.util import find_spec

for name in ('torch', 'mmengine', 'mmdet', 'pycocotools', 'pytest', 'ruff', 'mypy'):
    version(name)
sys.exit(not find_spec('mmcv') or find_spec('mmdet_sag').origin != f'{sys.argv[1]}/mmdet_sag/__init__.py')
PY
}
has_compiled_mmcv() {
    "$1" -c '
import glob, sys
from importlib.util import find_spec
sys.exit(not glob.glob(find_spec("mmcv").submodule_search_locations[0] + "/_ext.*"))' 2>/dev/null
}
operators_work() {
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$1" - 2>/dev/null <<'PY'
import torch

import mmdet_sag_operators
from mmcv.ops import nms

boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
PY
}

# torchvision's operators load only with the build of torch that they were made for.
pair_works() {
    "$1" -c 'import sys, torchvision.extension; sys.exit(not torchvision.extension._has_ops())' 2>/dev/null
}

installed_version() {
    "$1" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$2" 2>/dev/null || true
}

supported_torch() {
    case "$1" in
    2.[1-9] | 2.[1-9].* | 2.1[0-5] | 2.1[0-5].*) ;;
    *) return 1 ;;
    esac
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.10 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        if [ -n "${PYTHON:-}" ]; then
            command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON does not exist: set PYTHON to a Python 3.10 to 3.13"
            die "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 | head -n 1 || true), but Python 3.10 to 3.13 is needed: set PYTHON to one"
        fi
    done
    die "no Python 3.10 to 3.13 found in PATH: install one, or name it with PYTHON=/path/to/python3.11"
}

# pip_install WHAT ARGUMENTS...: with pip's progress on a terminal, else only its errors.
pip_install() {
    local what="$1" quiet=-qq
    shift
    if [ -t 2 ]; then quiet=; fi
    say "installing $what"
    # Modules are compiled when they are first imported: most of torch's never are.
    "$python" -m pip install --disable-pip-version-check --no-compile $quiet "$@" >&2 ||
        die "pip failed while installing $what (its message is above): check the network and pip's index, then run this again"
}

if [ "${USE_ACTIVE_ENV:-0}" = 1 ]; then
    python="$(command -v "${PYTHON:-python}" || true)"
    [ -n "$python" ] || die "USE_ACTIVE_ENV=1, but there is no '${PYTHON:-python}' in PATH: activate an environment first"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "USE_ACTIVE_ENV=1, but $python is older than Python 3.10: activate an environment with a newer one"
    torch_version="$(installed_version "$python" torch)"
    [ -n "$torch_version" ] ||
        die "USE_ACTIVE_ENV=1, but $python has no torch: install it first (docs/install.md), or leave USE_ACTIVE_ENV out"
    supported_torch "$torch_version" ||
        die "USE_ACTIVE_ENV=1, but $python has torch $torch_version: install one from 2.1 to 2.15, or leave USE_ACTIVE_ENV out"
    stamp_file="$("$python" -c 'import sys; print(sys.prefix)')/.mmdet_sag_setup"
else
    supported_torch "$torch_version" || die "TORCH_VERSION=$torch_version is not supported: name one from 2.1 to 2.15"
    python="$venv/bin/python"
    stamp_file="$venv/.mmdet_sag_setup"
fi
if [ "$operators" = mmcv ] && ! has_compiled_mmcv "$python"; then
    die "MMDET_SAG_OPERATORS=mmcv, but there is no mmcv with compiled operators and this script compiles none: install one in an environment of your own (docs/install.md) and set USE_ACTIVE_ENV=1, or leave MMDET_SAG_OPERATORS out"
fi

if [ -f "$stamp_file" ] && [ "$(cat "$stamp_file")" = "$(stamp_of "$python")" ] && looks_complete "$python"; then
    printf '%s\n' "$python"
    exit 0
fi

constraints="$(mktemp)"
requirements="$(mktemp)"
trap 'rm -f "$constraints" "$requirements"' EXIT
cp "$root/requirements.txt" "$requirements"

if [ "${USE_ACTIVE_ENV:-0}" = 1 ]; then
    say "adding what is missing to the active environment ($python, torch $torch_version)"
    if has_compiled_mmcv "$python"; then
        operators_work "$python" ||
            die "the active environment's mmcv $(installed_version "$python" mmcv) has no operators that work with torch $torch_version: uninstall it (pip uninstall mmcv) to use torchvision's, or install a matching one (docs/install.md)"
        # Its operators are used in place of torchvision's, and mmcv-lite would overwrite its files.
        grep -vE '^(mmcv|torchvision)' "$root/requirements.txt" >"$requirements"
    fi
    "$python" -m pip --disable-pip-version-check list --format freeze 2>/dev/null |
        grep -E '^(torch|torchvision|numpy|mmcv|mmcv-lite|mmengine|mmdet)==' >"$constraints"
else
    if [ -d "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(find "$venv" -mindepth 1 -print -quit)" ]; then
        die "$venv exists and is no virtual environment: move it away, or set MMDET_SAG_VENV to another folder"
    fi
    # An interrupted set-up may have left an interpreter without pip.
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        base_python="$(find_python)"
        "$base_python" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$base_python cannot make virtual environments: install its venv package (Debian and Ubuntu: apt install python3-venv)"
        # Measured: 1.6 GB of packages with the CPU builds, 6 GB with the CUDA builds that PyPI has for Linux.
        if [ -z "${TORCH_INDEX_URL:-}" ] && [ "$(uname)" = Linux ]; then needed_gb=8; else needed_gb=4; fi
        folder="$venv"
        while [ ! -d "$folder" ]; do folder="$(dirname "$folder")"; done
        free_gb=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1024 / 1024))
        [ "$free_gb" -ge "$needed_gb" ] ||
            die "$free_gb GB free in $folder, but $needed_gb GB are needed: make room, or set MMDET_SAG_VENV to a folder elsewhere"
        say "making a virtual environment in $venv with $("$base_python" --version)"
        "$base_python" -m venv "$venv" >&2 || die "$base_python could not make a virtual environment in $venv (its message is above)"
    fi
    # pip takes a package for installed if it was killed while copying its files. It writes RECORD last.
    for metadata in "$venv"/lib/python*/site-packages/*.dist-info; do
        if [ ! -f "$metadata/RECORD" ]; then rm -rf "$metadata"; fi
    done

    if [ "$torch_version" = "$pinned_torch" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        cp "$pinned" "$constraints"
    else
        # Not every Python and torch can have the other pinned versions.
        grep -E '^(mmcv|mmcv-lite|mmengine|mmdet)==' "$pinned" >"$constraints"
        echo "torch==$torch_version" >>"$constraints"
        case "$torch_version" in
        # Compiled against NumPy 1, and cannot use NumPy 2; opencv-python 4.12 and newer ask for it.
        2.[12] | 2.[12].*) printf '%s\n' 'numpy<2' 'opencv-python<4.12' >>"$constraints" ;;
        esac
    fi
    if ! pair_works "$python" || [ "$(installed_version "$python" torch | sed 's/+.*//')" != "${torch_version%%+*}" ]; then
        torch="torch==$torch_version"
        if [ -z "${TORCH_INDEX_URL:-}" ] && "$python" -m pip index versions torch 2>/dev/null |
            sed -n 's/^Available versions: //p' | tr -d ' ' | tr ',' '\n' | grep -qxF "$torch_version"; then
            # A folder of wheels may also have 2.13.0+cpu, which pip prefers and PyPI's torchvision does not fit.
            # Three equal signs take the named build only.
            torch="torch===$torch_version"
        fi
        pip_install "$torch and its torchvision (a download of 0.2 GB, or 3 GB for CUDA)" \
            ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -c "$constraints" "$torch" torchvision
    fi
fi

pip_install 'the other packages (a download of up to 0.2 GB)' -c "$constraints" -r "$requirements" -r "$root/requirements/tests.txt"
operators_work "$python" ||
    die "torch $(installed_version "$python" torch) and torchvision $(installed_version "$python" torchvision) do not fit each other: install a pair from one index (docs/install.md)"
pip_install mmdet_sag --no-build-isolation --no-deps -e "$root"
looks_complete "$python" || die "the environment of $python is not complete after its set-up: remove it and run this again"
# The folder of an active environment may be read-only; the next run then goes through it again.
stamp_of "$python" 2>/dev/null >"$stamp_file" || true
say "ready: $python"
printf '%s\n' "$python"
