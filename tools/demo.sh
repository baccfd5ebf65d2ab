#!/bin/sh
# The main job on the lab guest: a kernel boots, a fault strikes, the report says why. $1: the agent.
set -eu
agent=$1
mkdir -p build
status=0
"$agent" ci --lab kernel-stack-unmapped -o build/demo.snapshot --html build/demo.html || status=$?
if [ "$status" -ne 1 ]; then
    echo "the demo's guest was expected to fault (exit 1), but the agent said $status" >&2
    exit 1
fi
echo
echo "The stop is kept: build/demo.snapshot  (breenix-gdbagent report build/demo.snapshot, or gdb)"
echo "The same report for a browser: build/demo.html"
