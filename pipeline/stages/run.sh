#!/bin/sh
# Run a stage by the Python of the environment that `dvc repro` was started from, whether it is activated or not.
#
# An environment is ours if it has the command sar-search. DVC that is installed elsewhere (pipx, the system) leaves the
# choice to the PATH.

ours() { [ -x "$1/sar-search" ] && [ -x "$1/python" ]; }

process=$PPID
for step in 1 2 3; do # the shell that DVC starts commands by may stand in between
    case $process in '' | 0 | 1) break ;; esac
    words=$(tr '\0' '\n' <"/proc/$process/cmdline" 2>/dev/null | head -n 1)
    [ -n "$words" ] || words=$(ps -o comm= -p "$process" 2>/dev/null)
    case $words in
    */python*)
        if ours "${words%/*}"; then exec "${words%/*}/python" -m "pipeline.stages.$1"; fi
        break
        ;;
    esac
    above=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status" 2>/dev/null)
    process=${above:-$(ps -o ppid= -p "$process" 2>/dev/null | tr -d ' ')}
done
for name in python python3; do
    if command -v "$name" >/dev/null 2>&1; then exec "$name" -m "pipeline.stages.$1"; fi
done
echo "error: no python on the PATH; activate the environment that has sar-search (. .venv/bin/activate)" >&2
exit 2
