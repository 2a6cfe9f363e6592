#!/usr/bin/env bash
# Makes the Python environment of this clone and prints the path of its interpreter; what it does meanwhile goes to
# standard error. A finished environment is only checked, within a second; an interrupted set-up goes on where it was.
#
# Environment variables:
#   PYTHON            the Python to make the environment with (3.10 to 3.13); searched for in PATH by default
#   MMDET_SAG_VENV    where the environment lies; default: .venv in this clone
#   TORCH_VERSION     another torch than the pinned one, 2.1 or newer and older than 2.16
#   TORCH_INDEX_URL   pip's index for torch and torchvision, e.g. https://download.pytorch.org/whl/cpu for builds
#                     without CUDA
#   USE_ACTIVE_ENV=1  no new environment: add what is missing to that of the `python` in PATH (or PYTHON), and leave
#                     the torch and mmcv in it as they are
#   MMDET_SAG_OPERATORS=mmcv  compile mmcv's operators, for torch older than 2.14, instead of using torchvision's
#   MAX_JOBS          how many compilers run at a time to build mmcv's operators
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
pinned="$root/requirements/pinned.txt"
pinned_version() { sed -n "s/^$1==//p" "$pinned"; }
mmcv_version="$(pinned_version mmcv)"
torch_version="${TORCH_VERSION:-$(pinned_version torch)}"
venv="${MMDET_SAG_VENV:-$root/.venv}"
use_active_env="${USE_ACTIVE_ENV:-0}"
operators="${MMDET_SAG_OPERATORS:-auto}"
# Seen: 1.6 GB of packages with the CPU builds, 6 GB with those for CUDA, which PyPI has for Linux.
if [ -z "${TORCH_INDEX_URL:-}" ] && [ "$(uname)" = Linux ]; then needed_gb=8; else needed_gb=4; fi
# On the CPU; a CUDA build has more.
mmcv_files=77
heartbeat=
scratch=

say() { printf '[setup] %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

clean_up() {
    if [ -n "$heartbeat" ]; then kill "$heartbeat" 2>/dev/null || true; fi
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}
trap clean_up EXIT
trap 'say "interrupted; the next run goes on from here"; exit 130' INT TERM

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

# What the environment depends on, in one string: another torch, Python, place or list of packages means another set-up.
stamp_of() {
    "$1" - "$root" "$torch_version" <<'PY'
import hashlib
import sys
from pathlib import Path

root, torch_version = sys.argv[1:]
digest = hashlib.sha256(f'{root} {torch_version} {sys.version}'.encode())
for name in ('requirements.txt', 'requirements/tests.txt', 'requirements/pinned.txt', 'setup.py'):
    digest.update(Path(root, name).read_bytes())
print(digest.hexdigest())
PY
}

# Looks at files only: importing torch and mmcv would take seconds.
looks_complete() {
    "$1" - "$root" "$operators" 2>/dev/null <<'PY'
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

for name in ('torch', 'mmengine', 'mmdet', 'pycocotools', 'pytest', 'ruff'):
    version(name)
compiled = any(Path(find_spec('mmcv').origin).parent.glob('_ext.*'))
if not compiled:
    version('torchvision')
package = Path(find_spec('mmdet_sag').origin).resolve()
sys.exit((sys.argv[2] == 'mmcv' and not compiled) or package.parents[1] != Path(sys.argv[1]))
PY
}

# Those that MMDET_SAG_OPERATORS asks for.
operators_work() {
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" MMDET_SAG_OPERATORS="$operators" "$1" - 2>/dev/null <<'PY'
import torch

import mmdet_sag_operators
from mmcv.ops import nms

boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
PY
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

# mmcv compiles its operators as C++17, which the headers of a newer torch refuse.
compilable_torch() {
    case "$1" in
    2.1[4-9] | 2.1[4-9].*) return 1 ;;
    esac
}

refuse_compiling() {
    die "MMDET_SAG_OPERATORS=mmcv: mmcv $mmcv_version cannot be compiled for torch $1; take torch 2.13 or older, or leave MMDET_SAG_OPERATORS out"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.10 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        if [ -n "${PYTHON:-}" ]; then
            die "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 | head -n 1 || true), but Python 3.10 to 3.13 is needed: set PYTHON to one"
        fi
    done
    die "no Python 3.10 to 3.13 found in PATH: install one, or name it with PYTHON=/path/to/python3.11"
}

check_python_packages() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$1 cannot make virtual environments: install its venv package (Debian and Ubuntu: apt install python3-venv)"
}

check_compiler() {
    "$1" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' ||
        die "MMDET_SAG_OPERATORS=mmcv: mmcv $mmcv_version cannot be compiled by Python 3.13 and newer; set PYTHON to an older one, or leave MMDET_SAG_OPERATORS out"
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        die "$1 has no C headers (Python.h), which compiling mmcv's operators needs: install them (Debian and Ubuntu: apt install python3-dev), or leave MMDET_SAG_OPERATORS out"
    local compiler="${CXX:-c++}"
    command -v "${compiler%% *}" >/dev/null ||
        die "no C++ compiler ('$compiler'), which mmcv's operators are compiled with: install one (Debian and Ubuntu: apt install g++), name it with CXX, or leave MMDET_SAG_OPERATORS out"
    # shellcheck disable=SC2086 # CXX may hold flags
    printf '#include <filesystem>\n#include <optional>\nint main() { return std::optional<int>(0).value(); }\n' |
        $compiler -std=c++17 -x c++ -fsyntax-only - 2>/dev/null ||
        die "the C++ compiler '$compiler' cannot compile C++17, which mmcv's operators need: install GCC 9 or newer, or name another with CXX"
}

check_disk() {
    local folder="$1" free
    while [ ! -d "$folder" ]; do folder="$(dirname "$folder")"; done
    free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1024 / 1024))
    [ "$free" -ge "$needed_gb" ] ||
        die "$free GB free in $folder, but $needed_gb GB are needed: make room, or set MMDET_SAG_VENV to a folder elsewhere"
}

has_compiled_mmcv() {
    "$1" - 2>/dev/null <<'PY'
import sys
from importlib.util import find_spec
from pathlib import Path

sys.exit(not any(Path(find_spec('mmcv').origin).parent.glob('_ext.*')))
PY
}

# A CUDA torch on a machine with a GPU makes mmcv compile CUDA code.
check_cuda_compiler() {
    "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || return 0
    command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] ||
        die "torch sees a GPU, but there is no nvcc to compile mmcv's operators for it: install the CUDA toolkit, take OpenMMLab's prebuilt mmcv (docs/install.md), or hide the GPU with CUDA_VISIBLE_DEVICES="
}

# Ends its own sleep when it is ended, which would keep the caller's pipe open.
beat() {
    local what="$1" seconds=0 pause='' objects
    trap 'kill "$pause" 2>/dev/null; exit 0' TERM
    while true; do
        sleep 30 &
        pause=$!
        wait "$pause"
        seconds=$((seconds + 30))
        objects="$(find "$scratch" -name '*.o' 2>/dev/null | wc -l)"
        if [ "$objects" -gt 0 ]; then
            say "still $what: $((seconds / 60)) min $((seconds % 60)) s, $((objects)) of about $mmcv_files files compiled"
        else
            say "still $what: $((seconds / 60)) min $((seconds % 60)) s"
        fi
    done
}

# pip_install WHAT ARGUMENTS...: WHAT is told while it takes long.
pip_install() {
    local what="$1"
    shift
    beat "$what" >/dev/null 9>&- &
    heartbeat=$!
    # Twice quiet: pip's warnings name every index that lacks a package. Modules are compiled when they are imported
    # first: most of torch's never are.
    TMPDIR="$scratch" "$python" -m pip install --disable-pip-version-check --no-compile -qq "$@" >&2 ||
        die "pip failed while $what (its message is above): check the network and pip's index, then run this again"
    kill "$heartbeat" 2>/dev/null || true
    wait "$heartbeat" 2>/dev/null || true
    heartbeat=
}

# torchvision's operators load only with the build of torch that they were made for.
pair_works() {
    "$1" -c 'import sys, torchvision.extension; sys.exit(not torchvision.extension._has_ops())' 2>/dev/null
}

pair_in_words() {
    printf 'torch %s and torchvision %s' "$(installed_version "$1" torch)" "$(installed_version "$1" torchvision)"
}

not_fitting="install a pair of one origin (docs/install.md), or compile mmcv's operators with MMDET_SAG_OPERATORS=mmcv"

install_pair() {
    local torch="torch==$torch_version"
    if [ -z "${TORCH_INDEX_URL:-}" ] && "$python" -m pip index versions torch 2>/dev/null |
        sed -n 's/^Available versions: //p' | tr -d ' ' | tr ',' '\n' | grep -qxF "$torch_version"; then
        # A folder of wheels may also have a build like 2.13.0+cpu, which PyPI's torchvision does not fit, and pip
        # prefers it. Three equal signs take no other than the one that is named.
        torch="torch===$torch_version"
    fi
    if [ -n "$(installed_version "$python" torchvision)" ] && ! pair_works "$python"; then
        say "$(pair_in_words "$python") do not fit each other: they are replaced"
    fi
    pip_install 'installing torch' ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -c "$constraints" "$torch" torchvision
    pair_works "$python" || die "$(pair_in_words "$python") do not fit each other: $not_fitting"
}

install_mmcv() {
    # Each compiler takes up to 2 GB of memory; mmcv on its own would start at least four.
    if [ -z "${MAX_JOBS:-}" ]; then
        MAX_JOBS="$("$python" -c 'import os, psutil; print(max(1, min(os.cpu_count(), psutil.virtual_memory().available // 2**31)))')"
    fi
    export MAX_JOBS
    say "installing mmcv $mmcv_version, whose operators are compiled for torch $(installed_version "$python" torch) here: no prebuilt ones exist for it."
    say "Unless pip still has them from an earlier time, this takes about 10 minutes on 2 cores, once ($MAX_JOBS compilers at a time)."
    pip_install "installing mmcv" --no-build-isolation --no-deps --force-reinstall "$@" "mmcv==$mmcv_version"
}

if [ "$use_active_env" = 1 ]; then
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
    if [ "$operators" = mmcv ] && ! compilable_torch "$torch_version"; then refuse_compiling "$torch_version"; fi
    python="$venv/bin/python"
    stamp_file="$venv/.mmdet_sag_setup"
fi

if [ -f "$stamp_file" ] && [ -x "$python" ] && [ "$(cat "$stamp_file")" = "$(stamp_of "$python")" ] && looks_complete "$python"; then
    printf '%s\n' "$python"
    exit 0
fi

if [ "$use_active_env" = 1 ]; then
    say "adding what is missing to the active environment ($python, torch $torch_version)"
    if ! operators_work "$python"; then
        if has_compiled_mmcv "$python"; then
            die "the active environment's mmcv $(installed_version "$python" mmcv) has no operators that work with torch $torch_version: uninstall it (pip uninstall mmcv) to do without, or install a matching one (docs/install.md)"
        fi
        if [ "$operators" = mmcv ]; then
            compilable_torch "$torch_version" || refuse_compiling "$torch_version"
            check_compiler "$python"
            check_cuda_compiler "$python"
        fi
    fi
else
    if [ -d "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(find "$venv" -mindepth 1 ! -name .setup_lock -print -quit)" ]; then
        die "$venv exists and is no virtual environment: move it away, or set MMDET_SAG_VENV to another folder"
    fi
    # A set-up that was cut off may have left an interpreter without pip.
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        base_python="$(find_python)"
        check_python_packages "$base_python"
        check_disk "$venv"
        if [ "$operators" = mmcv ]; then check_compiler "$base_python"; fi
    elif ! operators_work "$python"; then
        check_disk "$venv"
        if [ "$operators" = mmcv ]; then check_compiler "$python"; fi
    fi
    mkdir -p "$venv"
    # Two set-ups of one environment at the same time would spoil it.
    if command -v flock >/dev/null; then
        exec 9>"$venv/.setup_lock"
        if ! flock -n 9; then
            say "another set-up of $venv is running; waiting for it"
            flock 9
            exec "${BASH_SOURCE[0]}"
        fi
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        say "making a virtual environment in $venv with $("$base_python" --version)"
        "$base_python" -m venv "$venv" >&2 || die "$base_python could not make a virtual environment in $venv (its message is above)"
    fi
fi

if [ "$use_active_env" != 1 ]; then
    # pip takes a package for installed whose files it was still copying when it was killed; their list comes last.
    "$python" - <<'PY'
import shutil
import sysconfig
from pathlib import Path

for metadata in Path(sysconfig.get_path('purelib')).glob('*.dist-info'):
    if not (metadata / 'RECORD').is_file():
        shutil.rmtree(metadata)
PY
fi

scratch="$(mktemp -d)"
constraints="$scratch/constraints.txt"
if [ "$use_active_env" = 1 ]; then
    "$python" - >"$constraints" <<'PY'
from importlib.metadata import PackageNotFoundError, version

for name in ('torch', 'torchvision', 'numpy', 'mmcv', 'mmcv-lite', 'mmengine', 'mmdet'):
    try:
        print(f'{name}=={version(name)}')
    except PackageNotFoundError:
        pass
PY
else
    if [ "$torch_version" = "$(pinned_version torch)" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        cat "$pinned" >"$constraints"
    else
        # The other pinned versions are not to be had for every Python, nor fit every torch.
        grep -E '^(mmcv|mmcv-lite|mmengine|mmdet)==' "$pinned" >"$constraints"
        echo "torch==$torch_version" >>"$constraints"
        case "$torch_version" in
        # Compiled against NumPy 1, and cannot use NumPy 2; opencv-python 4.12 and newer ask for it.
        2.[12] | 2.[12].*) printf '%s\n' 'numpy<2' 'opencv-python<4.12' >>"$constraints" ;;
        esac
    fi
    if ! pair_works "$python" || [ "$(installed_version "$python" torch | sed 's/+.*//')" != "${torch_version%%+*}" ]; then
        say "installing torch $torch_version and its torchvision: a download of 0.2 GB, or 3 GB where they are for CUDA (TORCH_INDEX_URL names another index)"
        install_pair
    fi
fi

say "installing the other packages: a download of up to 0.2 GB"
if has_compiled_mmcv "$python" || [ -n "$(installed_version "$python" mmcv)" ]; then
    grep -v '^mmcv' "$root/requirements.txt" >"$scratch/requirements.txt"
else
    cp "$root/requirements.txt" "$scratch/requirements.txt"
fi
if [ "$use_active_env" = 1 ] && operators_work "$python"; then
    # Their own operators are enough.
    grep -v '^torchvision' "$scratch/requirements.txt" >"$scratch/others.txt"
    mv "$scratch/others.txt" "$scratch/requirements.txt"
fi
pip_install 'installing the other packages' -c "$constraints" -r "$scratch/requirements.txt" -r "$root/requirements/tests.txt"

if [ "$operators" = mmcv ] && ! operators_work "$python"; then
    check_cuda_compiler "$python"
    pip_install 'installing what compiles mmcv' -c "$constraints" ninja psutil
    install_mmcv
    if ! operators_work "$python"; then
        say "pip had an mmcv that was built for another torch; building it anew"
        "$python" -m pip cache remove "mmcv-$mmcv_version*" >/dev/null 2>&1 || true
        install_mmcv --no-cache-dir
        operators_work "$python" || die "mmcv's operators do not work after they were built: run '$python -c \"import mmcv.ops\"' to see why"
    fi
fi
operators_work "$python" || die "$(pair_in_words "$python") do not fit each other: $not_fitting"

pip_install 'installing mmdet_sag' --no-build-isolation --no-deps -e "$root"
stamp="$(stamp_of "$python")"
looks_complete "$python" || die "the environment of $python is not complete after its set-up: remove it and run this again"
# An active environment may not be ours to write to; the next run then looks through it again.
printf '%s\n' "$stamp" 2>/dev/null >"$stamp_file" || true
say "ready: $python"
printf '%s\n' "$python"
