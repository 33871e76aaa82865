#!/usr/bin/env bash
# The services of docker/compose.yaml on this machine, by Docker Compose or podman-compose.
#
#   services.sh up [WORKERS]     make docker/.env if there is none, build, start, wait until all answer (2 workers)
#   services.sh repro [...]      `sar-search repro` on the head; typed again, it goes on
#   services.sh status           what runs
#   services.sh down             end all containers; --volumes: remove what they have kept too
#
# Takes Docker where both are there; COMPOSE=podman-compose says otherwise. GPUs are used where `nvidia-smi` works, unless
# docker/.env says DEVICE=cpu.
set -euo pipefail
cd "$(dirname "$0")/.."
env=docker/.env
fail() { echo "error: $*" >&2; exit 2; }

find_compose() {
  if [ -n "${COMPOSE:-}" ]; then read -ra compose <<< "$COMPOSE"
  elif command -v docker > /dev/null && docker compose version > /dev/null 2>&1; then compose=(docker compose)
  elif command -v podman > /dev/null && command -v podman-compose > /dev/null; then compose=(podman-compose)
  elif command -v docker-compose > /dev/null; then compose=(docker-compose)
  elif command -v podman > /dev/null; then fail "podman is here without podman-compose: pip install podman-compose"
  elif command -v docker > /dev/null; then fail "docker is here without Compose: install its plugin, 2.24 or newer"
  else fail "no container engine is here: install Docker with Compose 2.24 or newer, or podman with podman-compose 1.3 or newer"
  fi
  command -v "${compose[0]}" > /dev/null || fail "${compose[0]}: not found"
  engine=docker least=2.24.0
  [ "${compose[0]##*/}" != podman-compose ] || { engine=podman least=1.3.0; }
  local version
  version=$("${compose[@]}" version 2> /dev/null | grep -ioE 'compose.*version:? v?[0-9][0-9.]*' | grep -oE '[0-9][0-9.]*$' | head -n 1) || true
  [ -n "$version" ] || fail "${compose[*]} does not say its version"
  [ "$(printf '%s\n%s\n' "$least" "$version" | sort -V | head -n 1)" = "$least" ] \
    || fail "${compose[*]} is $version; docker/compose.yaml needs $least or newer"
  "$engine" info > /dev/null 2>&1 \
    || fail "$engine is installed but does not answer: start its service, or give your user the right to it"
  files=(-f docker/compose.yaml)
  if nvidia-smi > /dev/null 2>&1 && [ "$(setting DEVICE)" != cpu ]; then files+=(-f docker/compose.gpu.yaml); fi
}

# A variable of the environment, or of docker/.env.
setting() { if [ -n "${!1:-}" ]; then echo "${!1}"; else sed -n "s/^$1=//p" "$env" 2> /dev/null || true; fi; }

make_env() {
  local owner
  # The owner of the checkout, who can write in it; a number, since the image knows no names.
  owner=$(stat -c %u:%g .)
  random() { od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'; }
  (umask 077 && {
    echo "POSTGRES_PASSWORD=$(random)"
    echo "S3_USER=$(random | cut -c 1-20)"
    echo "S3_PASSWORD=$(random)"
    echo "RAY_AUTH_TOKEN=$(random)"
    echo "RUN_AS=$owner"
  } > "$env")
  echo "made docker/.env, with passwords of its own"
}

check_room() {
  [ -z "$(setting IMAGE)" ] || return 0
  "$engine" image inspect sar-search > /dev/null 2>&1 && return
  local place free
  place=$("$engine" info -f '{{.DockerRootDir}}' 2> /dev/null) || place=$(podman info -f '{{.Store.GraphRoot}}')
  free=$(df -BG --output=avail "$place" 2> /dev/null | tail -n 1 | tr -dc 0-9) || return 0
  [ "${free:-99}" -ge 20 ] || fail "$place: $free GB free; the image takes 8 GB, and as much again while it is built: free 20 GB"
}

await_answers() {
  local said until=$((SECONDS + 600))
  until "${compose[@]}" "${files[@]}" exec -T head python -c \
    'import urllib.request as r; r.urlopen("http://mlflow:5000/health", timeout=5)' > /dev/null 2>&1; do
    # What serve_mlflow.py says it cannot wait for.
    said=$("${compose[@]}" "${files[@]}" logs --tail 3 mlflow 2>&1 | grep -o 'error: .*' | tail -n 1) || true
    [ -z "$said" ] || fail "mlflow: ${said#error: }"
    [ $SECONDS -lt $until ] || fail "MLflow does not answer after 10 minutes; its own words: ${compose[*]} ${files[*]} logs"
    sleep 3
  done
}

say_nodes() {
  local until=$((SECONDS + 300)) nodes=""
  until [ "$(grep -c CPUs <<< "$nodes")" -gt "$1" ] || [ $SECONDS -gt $until ]; do
    nodes=$("${compose[@]}" "${files[@]}" exec -T head python -c \
      'from pipeline.cluster.launch.launcher import print_nodes; print_nodes()' 2> /dev/null) || sleep 3
  done
  [ "$(grep -c CPUs <<< "$nodes")" -gt "$1" ] || fail "only these nodes of Ray have joined: ${nodes//$'\n'/; }"
  grep CPUs <<< "$nodes"
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
  up)
    workers=${1:-2}
    [[ $workers =~ ^[0-9]+$ ]] || fail "up: $workers is no number of workers"
    find_compose
    check_room
    [ -e "$env" ] || make_env
    build=(--build)
    [ -z "$(setting IMAGE)" ] || build=()
    "${compose[@]}" "${files[@]}" up "${build[@]}" -d --scale "worker=$workers"
    await_answers
    say_nodes "$workers"
    mlflow=$(setting MLFLOW_PORT) dashboard=$(setting DASHBOARD_PORT)
    echo "MLflow: http://127.0.0.1:${mlflow:-5000}   Ray's dashboard: http://127.0.0.1:${dashboard:-8265}   Next: make services-repro" ;;
  repro)
    find_compose
    terminal=()
    [ -t 0 ] && [ -t 1 ] || terminal=(-T)
    "${compose[@]}" "${files[@]}" exec -T head true > /dev/null 2>&1 || fail "the head does not run: make services-up"
    exec "${compose[@]}" "${files[@]}" exec "${terminal[@]}" head sar-search repro "$@" ;;
  status) find_compose; "${compose[@]}" "${files[@]}" ps ;;
  down)
    find_compose
    # podman-compose takes workers beyond the first for orphans, and may meet one that is just being started again.
    end=("${compose[@]}" "${files[@]}" down --remove-orphans "$@")
    "${end[@]}" || { sleep 5; "${end[@]}"; } ;;
  *) sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
