#!/bin/sh
# What penalties cost on a GPU, in at most 8 minutes, on JAX and PyTorch; TensorFlow is not needed.
# On all kernels of a model against the textbook one-liner, and beside or within its training step;
# each in turn with its yardstick, in one process. Options go to the benchmarks (`--small` tries it
# on a CPU). Then docs/cost.md is made of what lies in benchmarks/results.
set -eu
cd "$(dirname "$0")/.."
export PYTHON="${PYTHON:-python}" PYTHONPATH="$PWD:$PWD/cli"
END=$(($(date +%s) + ${SECONDS_IN_ALL:-470}))

# bench SECONDS BACKEND SCRIPT MODEL …: so long it compiles and measures at most, after some for
# the start; what there is no time for is left out.
bench() {
    seconds=$1 backend=$2 script=$3
    shift 3
    left=$((END - $(date +%s)))
    if [ "$left" -lt $((seconds / 2 + 15)) ]; then
        echo "no time for $backend $*"
        return
    fi
    echo "== $backend $*"
    KERAS_BACKEND=$backend timeout "$left" "$PYTHON" "benchmarks/$script.py" "$@" \
        --seconds "$seconds" || echo "$backend $*: not measured"
}

bench 15 torch bench_kernels resnet50 "$@"
bench 15 torch bench_kernels vit_b "$@"
bench 150 jax bench_steps resnet50 --whole -r so srip "$@"
bench 90 jax bench_steps resnet50 -r so srip "$@"
bench 25 torch bench_steps resnet50 "$@"
bench 25 torch bench_steps resnet50 --whole -r so srip "$@"
bench 40 jax bench_steps vit_b -r so "$@"
bench 15 torch bench_steps vit_b -r so "$@"
bench 40 jax bench_kernels resnet50 -r so srip "$@"
bench 15 torch bench_kernels wide -r so "$@"
"$PYTHON" benchmarks/cost_page.py
