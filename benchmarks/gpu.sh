#!/bin/sh
# What penalties cost on a GPU, in at most 8 minutes: each in turn with the plain training step, in
# one process a model, on JAX and PyTorch. TensorFlow is not needed. Options go to bench_steps.py
# (`--small` tries it on a CPU). Then docs/cost.md is made of what lies in benchmarks/results.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
END=$(($(date +%s) + 470))

# bench SECONDS BACKEND MODEL …: so long at most, with time to start and to end; past it, left out.
bench() {
    seconds=$1 backend=$2
    shift 2
    left=$((END - $(date +%s)))
    if [ "$left" -lt 40 ]; then
        echo "no time for $backend $*"
        return
    fi
    [ "$left" -lt "$seconds" ] && seconds=$left
    KERAS_BACKEND=$backend timeout "$left" "$PYTHON" benchmarks/bench_steps.py "$@" \
        --seconds $((seconds * 6 / 10)) || echo "$backend $*: not measured"
}

bench 90 jax resnet50 "$@"
bench 60 torch resnet50 "$@"
bench 80 jax resnet50 --whole -r so "$@"
bench 40 torch resnet50 --whole -r so "$@"
bench 60 jax vit_b "$@"
bench 50 torch vit_b "$@"
bench 40 torch wide --policy float32 "$@"
bench 40 jax wide --policy float32 "$@"
"$PYTHON" benchmarks/cost_page.py
