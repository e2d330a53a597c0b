#!/bin/sh
# What penalties cost on a GPU, in at most 8 minutes, on JAX and PyTorch; TensorFlow is not needed.
# On all kernels of a model against the textbook one-liner, and beside or within its training step;
# each in turn with its yardstick, in one process. Options go to the benchmarks (`--small` tries it
# on a CPU). Then docs/cost.md is made of what lies in benchmarks/results.
set -eu
cd "$(dirname "$0")/.."
export PYTHON="${PYTHON:-python}" PYTHONPATH="$PWD:$PWD/cli"
END=$(($(date +%s) + ${SECONDS_IN_ALL:-470}))

# bench SECONDS BACKEND SCRIPT MODEL …: so long at most; what there is no time for is left out.
bench() {
    seconds=$1 backend=$2 script=$3
    shift 3
    left=$((END - $(date +%s)))
    if [ "$left" -lt 25 ]; then
        echo "no time for $backend $*"
        return
    fi
    [ "$left" -lt "$seconds" ] && seconds=$left
    echo "== $backend $*"
    KERAS_BACKEND=$backend timeout "$left" "$PYTHON" "benchmarks/$script.py" "$@" \
        --seconds $((seconds * 6 / 10)) || echo "$backend $*: not measured"
}

bench 25 torch bench_kernels resnet50 "$@"
bench 25 torch bench_kernels vit_b "$@"
bench 45 jax bench_kernels resnet50 -r so srip "$@"
bench 110 jax bench_steps resnet50 --whole -r so srip "$@"
bench 60 jax bench_steps resnet50 "$@"
bench 45 torch bench_steps resnet50 "$@"
bench 40 torch bench_steps resnet50 --whole -r so srip "$@"
bench 50 jax bench_steps vit_b -r so "$@"
bench 30 torch bench_steps vit_b -r so "$@"
bench 30 torch bench_kernels wide -r so "$@"
"$PYTHON" benchmarks/cost_page.py
