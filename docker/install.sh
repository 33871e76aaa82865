#!/usr/bin/env bash
# Installs requirements.lock into this Python, for GPUs or for CPUs alone. A step of the Dockerfile.
#
#   install.sh gpu               every package of the lock, by its hash
#   install.sh cpu INDEX         torch and torchvision of the locked versions from an index of CPU wheels, the rest by hash
set -euo pipefail
device=${1:-gpu} index=${2:-} lock=requirements.lock
pip() { python -m pip --disable-pip-version-check "$@"; }

case $device in
  gpu) pip install --no-cache-dir --no-deps --require-hashes -r "$lock" ;;
  cpu)
    [ -n "$index" ] || { echo "error: for cpu, give the address of an index of CPU wheels (TORCH_INDEX)" >&2; exit 2; }
    # A package is a line that begins with its name, and those after it up to the next name.
    leave='^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='
    awk -v leave="$leave" '/^[A-Za-z0-9]/ {skip = $0 ~ leave} !skip' "$lock" > /tmp/without-cuda.lock
    pip install --no-cache-dir --no-deps --require-hashes -r /tmp/without-cuda.lock
    grep -oE '^(torch|torchvision)==[0-9.]+' "$lock" | xargs python -m pip install --no-cache-dir --no-deps --index-url "$index"
    rm /tmp/without-cuda.lock ;;
  *) echo "error: device is gpu or cpu, not $device" >&2; exit 2 ;;
esac
python -c 'import torch, torchvision, ray; print("torch", torch.__version__, "ray", ray.__version__)'
