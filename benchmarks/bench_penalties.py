"""What each penalty costs, loss and gradient, as ratios to things that anyone can time.

    python benchmarks/bench_penalties.py [--quick] [--cores 2] [--output FILE]

Every ratio is the median over rounds of one timing by another, taken in turn in one process, so
that what else the machine does touches both alike. The yardsticks:

(a) plain autodiff of the textbook one-liner, reduce_sum(square(WᵀW − I)) (bench_kernels.py);
(b) the two bare matrix products that any exact method needs, WᵀW and W·G, tall side first;
(c) the pairwise double loop of old forum answers, on a 3×3×64×64 kernel;
(d) the convolution of a 3×3×512×512 kernel with itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench_kernels import one_liner
from common import bind, machine, parser, verdict, write

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"


@dataclass
class Row:
    """One line of the table: a time, and its ratio to a yardstick."""

    section: str
    name: str
    milliseconds: float
    against: str
    ratio: float
    target: str = ""
    met: bool | None = None


class Bench:
    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rows: list[Row] = []

    def times(self, functions: dict[str, Callable[[], Any]], rounds: int = 0) -> dict[str, Any]:
        """Seconds of each function in each round, interleaved."""
        import tensorflow as tf

        from orthwrap.costs.timing import Timed, in_turn

        def run(function: Callable[[], Any]) -> None:
            # Reading one number waits for the last result; the rest of a step precedes it.
            float(tf.reshape(tf.nest.flatten(function())[-1], [-1])[0])

        for function in functions.values():
            run(function)
            run(function)
        timed = {name: Timed(partial(run, function)) for name, function in functions.items()}
        count = rounds or self.rounds
        return in_turn(timed, least=count, most=count)

    def compare(
        self,
        section: str,
        times: dict[str, Any],
        against: str,
        targets: dict[str, float],
        skip: Iterable[str] = (),
    ) -> None:
        """A row for each function but the yardstick itself; targets are upper bounds."""
        import numpy as np

        for name, seconds in times.items():
            if name == against or name in skip:
                continue
            ratio = float(np.median(seconds / times[against]))
            self.add(section, name, float(np.median(seconds)), against, ratio, targets.get(name))

    def add(
        self,
        section: str,
        name: str,
        seconds: float,
        against: str,
        ratio: float,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        row = Row(section, name, 1e3 * seconds, against, ratio)
        if at_most is not None:
            row.target, row.met = f"≤ {at_most:g}", ratio <= at_most
        if at_least is not None:
            row.target, row.met = f"≥ {at_least:g}", ratio >= at_least
        self.rows.append(row)


# --- the yardsticks -------------------------------------------------------------------------


def bare_products(kernels: list[Any]) -> Callable[[], Any]:
    """(b): kernels as matrices, tall side first; float32, no XLA, one tf.function."""
    import tensorflow as tf

    matrices = [tf.reshape(k, (-1, k.shape[-1])) for k in kernels]
    tall = [w if w.shape[0] >= w.shape[1] else tf.transpose(w) for w in matrices]

    @tf.function(autograph=False)
    def run() -> Any:
        products = []
        for w in tall:
            gram = tf.matmul(w, w, transpose_a=True)
            products.append(tf.matmul(w, gram))
        return products

    return run


def double_loop(kernel: Any) -> Any:
    """(c)"""
    import tensorflow as tf

    n = kernel.shape[-1]
    loss = tf.constant(0.0)
    for i in range(n):
        for j in range(n):
            dot = tf.reduce_sum(kernel[..., i] * kernel[..., j])
            loss += tf.square(dot - float(i == j))
    return loss


def self_convolution(kernel: Any) -> Any:
    """(d)"""
    import tensorflow as tf

    k, filters = kernel.shape[0], kernel.shape[-1]
    pads = [(0, 0), (k - 1, k - 1), (k - 1, k - 1), (0, 0)]
    out = tf.nn.conv2d(tf.pad(tf.transpose(kernel, (3, 0, 1, 2)), pads), kernel, 1, "VALID")
    identity = tf.pad(
        tf.eye(filters)[:, None, None, :], [(0, 0), (k - 1, k - 1), (k - 1, k - 1), (0, 0)]
    )
    return tf.reduce_sum(tf.square(out - identity))


# --- the penalties, on kernels as layers hold them ------------------------------------------


def loss_and_gradient(penalty: Callable[[int, Any], Any], kernels: list[Any]) -> Any:
    """penalty(i, kernel), summed over the kernels, with its gradients, in one tf.function."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([penalty(i, kernel) for i, kernel in enumerate(kernels)])
        return loss, *tape.gradient(loss, kernels)

    return run


def on_matrices(name: str, kernels: list[Any], probes: int = 0) -> Callable[[int, Any], Any]:
    import keras
    import tensorflow as tf

    from orthwrap.penalties.table import PENALTIES
    from orthwrap.penalties.tensors import gaussian, rademacher

    kinds = {"signs": rademacher, "normal": gaussian}
    penalty, seeds = PENALTIES[name], keras.random.SeedGenerator(1)
    words: dict[str, Any] = {option.name: option.default for option in penalty.own_options}
    if probes or penalty.draws:
        words["draw"] = lambda shape, kind="signs": kinds[kind](shape, seeds)
    if probes:
        words["probes"] = probes
    function: Any = penalty.sketch if probes else penalty.exact
    return lambda i, kernel: function(tf.reshape(kernel, (1, -1, kernel.shape[-1])), **words)


def on_convolutions(strides: list[Any], probes: int = 0) -> Callable[[int, Any], Any]:
    import keras

    from orthwrap.penalties.lorth import lorth, lorth_probe_shape
    from orthwrap.penalties.tensors import rademacher

    seeds = keras.random.SeedGenerator(2)

    def penalty(i: int, kernel: Any) -> Any:
        if not probes:
            return lorth(kernel, strides[i])
        shape = lorth_probe_shape(kernel.shape, strides[i], 1, probes)
        return lorth(kernel, strides[i], probes=rademacher(shape, seeds))

    return penalty


def resnet50() -> tuple[Any, list[Any], list[Any]]:
    """The model, its 54 kernels as variables of their own, and their strides."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    kernels = [tf.Variable(layer.kernel.value) for layer in layers]
    return model, kernels, [getattr(layer, "strides", ()) for layer in layers]


# --- sections -------------------------------------------------------------------------------


def all_kernels(bench: Bench, kernels: list[Any], strides: list[Any]) -> dict[str, Any]:
    def penalty(name: str, probes: int = 0) -> Any:
        return loss_and_gradient(on_matrices(name, kernels, probes), kernels)

    functions = {
        "(b) two bare products": bare_products(kernels),
        "(a) autodiff of the one-liner": loss_and_gradient(lambda i, k: one_liner(k), kernels),
        **{name: penalty(name) for name in ("so", "dso", "mc", "offdiag", "cosine", "frobenius")},
        "so sketch, 8 probes": penalty("so", 8),
        "offdiag sketch, 8 probes": penalty("offdiag", 8),
        "srip, 2 steps": penalty("srip"),
    }
    times = bench.times(functions)
    section = "ResNet-50, 54 kernels"
    targets = {"so": 0.95, "dso": 1.0, "so sketch, 8 probes": 0.16, "srip, 2 steps": 0.14}
    bench.compare(section, times, "(b) two bare products", targets)
    bench.compare(
        section,
        {name: times[name] for name in ("so", "(a) autodiff of the one-liner")},
        "(a) autodiff of the one-liner",
        {"so": 0.40},
    )
    convolutions = {
        "(b) two bare products": functions["(b) two bare products"],
        "lorth": loss_and_gradient(on_convolutions(strides), kernels),
        "lorth sketch, 8 probes": loss_and_gradient(on_convolutions(strides, 8), kernels),
    }
    bench.compare(
        section, bench.times(convolutions, max(bench.rounds // 3, 3)), "(b) two bare products", {}
    )
    return functions


def double_loops(bench: Bench) -> None:
    import numpy as np
    import tensorflow as tf

    kernels = [tf.Variable(tf.random.stateless_normal((3, 3, 64, 64), (1, 2)) / 24)]
    name = "(c) the double loop"
    times = bench.times(
        {
            "so": loss_and_gradient(on_matrices("so", kernels), kernels),
            name: loss_and_gradient(lambda i, k: double_loop(k), kernels),
        },
        max(bench.rounds // 3, 3),
    )
    ratio = float(np.median(times[name] / times["so"]))
    bench.add("3×3×64×64", name, float(np.median(times[name])), "so", ratio, at_least=100)


def convolution(bench: Bench) -> None:
    import tensorflow as tf

    kernels = [tf.Variable(tf.random.stateless_normal((3, 3, 512, 512), (1, 2)) / 68)]
    yardstick = "(d) kernel-with-kernel convolution"
    times = bench.times(
        {
            yardstick: loss_and_gradient(lambda i, k: self_convolution(k), kernels),
            "lorth": loss_and_gradient(on_convolutions([(1, 1)]), kernels),
            "lorth sketch, 8 probes": loss_and_gradient(on_convolutions([(1, 1)], 8), kernels),
        }
    )
    targets = {"lorth": 0.55, "lorth sketch, 8 probes": 0.10}
    bench.compare("3×3×512×512", times, yardstick, targets)


def training_step(bench: Bench, model: Any, functions: dict[str, Any], batch: int) -> None:
    import tensorflow as tf

    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    images = tf.random.stateless_normal((batch, 224, 224, 3), (1, 2))
    labels = tf.zeros((batch,), tf.int32)
    names = ["so", "so sketch, 8 probes", "srip, 2 steps"]
    step = f"one step, batch {batch}"
    times = bench.times(
        {
            step: lambda: tf.constant(model.train_on_batch(images, labels)),
            **{name: functions[name] for name in names},
        },
        3,
    )
    targets = {"so sketch, 8 probes": 0.01} if batch == 32 else {}
    bench.compare(f"ResNet-50, batch {batch}", times, step, targets)


def growth(bench: Bench, widths: list[int]) -> dict[str, Any]:
    """Times over n for an n×n kernel, and the exponent of time in the number of weights."""
    import numpy as np
    import tensorflow as tf

    found: dict[str, Any] = {"widths": widths, "milliseconds": {}, "exponents": {}}
    for n in widths:
        kernels = [tf.Variable(tf.random.stateless_normal((n, n), (1, 2)) / n**0.5)]
        functions = {
            "so": loss_and_gradient(on_matrices("so", kernels), kernels),
            "so sketch, 8 probes": loss_and_gradient(on_matrices("so", kernels, 8), kernels),
        }
        times = bench.times(functions, max(bench.rounds // 2, 3))
        for name, seconds in times.items():
            found["milliseconds"].setdefault(name, []).append(1e3 * float(np.median(seconds)))
    for name, milliseconds in found["milliseconds"].items():
        slope = np.polyfit(np.log(np.square(widths)), np.log(milliseconds), 1)[0]
        found["exponents"][name] = float(slope)
        bench.add(
            f"n×n, n = {widths[0]} … {widths[-1]}",
            f"{name}: exponent in the number of weights",
            milliseconds[-1] / 1e3,
            "weights",
            float(slope),
            at_most=1.1 if "sketch" in name else None,
        )
    return found


def accuracy(bench: Bench, kernels: list[Any], draws: int) -> dict[str, Any]:
    """How far the mean of the sketches is from the exact value, and how far one draw strays."""
    import numpy as np
    import tensorflow as tf

    exact_of, sketch_of = on_matrices("so", kernels), on_matrices("so", kernels, 8)
    exact = np.array([float(exact_of(i, k)) for i, k in enumerate(kernels)])

    @tf.function(autograph=False)
    def draw() -> Any:
        return tf.stack([sketch_of(i, k) for i, k in enumerate(kernels)])

    values = np.array([draw().numpy() for _ in range(draws)], np.float64)
    errors = np.abs(values.mean(0) - exact) / (values.std(0, ddof=1) / np.sqrt(draws))
    of_sum = float(values.sum(1).mean() / exact.sum() - 1)
    section = f"so sketch, {draws} draws"
    nothing = float("nan")
    bench.add(section, "|mean/exact − 1|, sum", nothing, "exact", abs(of_sum), 0.03)
    worst = float(errors.max())
    bench.add(section, "worst kernel, standard errors", nothing, "exact", worst, 4)
    spread_of_sum = float(values.sum(1).std(ddof=1) / exact.sum())
    spread = values.std(0, ddof=1) / exact
    bench.add(section, "spread of one draw, sum", nothing, "exact", spread_of_sum)
    bench.add(section, "spread of one draw, worst kernel", nothing, "exact", float(spread.max()))
    return {
        "draws": draws,
        "relative_error_of_sum": of_sum,
        "worst_standard_errors": worst,
        "relative_spread_of_sum": spread_of_sum,
        "relative_spread_per_kernel": spread.tolist(),
    }


# --- the report -----------------------------------------------------------------------------


def quiet_tensorflow() -> None:
    """It warns that functions are traced in a loop, which is the point here."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")


def show(rows: list[Row], host: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{host['cpu']}, {host['cores']} cores, TensorFlow {host['tensorflow']}"
    table = Table(title=title, title_justify="left")
    for heading, justify in (
        ("", "left"), ("loss and gradient", "left"), ("ms", "right"),
        ("ratio", "right"), ("to", "left"), ("target", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    section = ""
    for row in rows:
        if row.section != section:
            table.add_section()
        table.add_row(
            row.section if row.section != section else "",
            row.name,
            "" if row.milliseconds != row.milliseconds else f"{row.milliseconds:.2f}",
            f"{row.ratio:.3f}" if row.ratio < 10 else f"{row.ratio:.0f}",
            row.against,
            row.target,
            verdict(row.met),
        )
        section = row.section
    Console(width=None if os.isatty(1) else 140).print(table)


def main() -> None:
    options = parser(__doc__, "fewer rounds, no training steps", "penalties.json").parse_args()
    # Before TensorFlow starts its threads.
    bind(options.cores)

    host = machine()
    quiet_tensorflow()
    bench = Bench(rounds=5 if options.quick else 25)
    model, kernels, strides = resnet50()
    functions = all_kernels(bench, kernels, strides)
    double_loops(bench)
    convolution(bench)
    widths = [128, 256, 512, 1024, 2048] + ([] if options.quick else [4096])
    curves = growth(bench, widths)
    sketches = accuracy(bench, kernels, 50 if options.quick else 200)
    if not options.quick:
        for batch in (8, 32):
            training_step(bench, model, functions, batch)

    show(bench.rows, host)
    rows = [
        {key: None if value != value else value for key, value in asdict(row).items()}
        for row in bench.rows
    ]
    write(options.output, host, rows=rows, growth=curves, sketch=sketches)


if __name__ == "__main__":
    main()
