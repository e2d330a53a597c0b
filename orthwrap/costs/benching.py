"""Each penalty and constraint beside the training step of a model, in turn, within a time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import keras
import numpy as np

from orthwrap._version import __version__
from orthwrap.constraints import OrthogonalityConstraint
from orthwrap.costs import passes, programs, steps
from orthwrap.costs.device import device
from orthwrap.costs.timing import Seconds, Timed, in_turn, quartiles
from orthwrap.costs.variants import Variant, variants
from orthwrap.costs.wanted import Wanted
from orthwrap.errors import NoMatchError
from orthwrap.live.live_store import LiveStore
from orthwrap.live.rebuild import rebuild
from orthwrap.penalties.cheapest import exact_is_cheaper
from orthwrap.penalties.options import PROBES
from orthwrap.penalties.table import PENALTIES
from orthwrap.penalties.tensors import on_processor
from orthwrap.plan.decide import plan
from orthwrap.plan.decision import REGULARIZED, Decision
from orthwrap.regularizers import from_attachment
from orthwrap.report.cost_record import BenchReport, Cost, CostRow, HeldRow
from orthwrap.report.make import Measuring
from orthwrap.report.versions import versions
from orthwrap.rules.rule import Rule
from orthwrap.stores.store import ModelRecord
from orthwrap.survey import Survey, survey
from orthwrap.training.pull.pull_callback import Pull

Tell = Callable[[str], None]
_Call = Callable[[], None]

STEP, NOTHING = "step", "nothing"
# The share of the time after which nothing more is compiled: what is left is for measuring.
_FOR_COMPILING = 0.75


def measured(
    model: Any, record: ModelRecord, wanted: Wanted, measuring: Measuring | None = None
) -> BenchReport:
    """What each penalty and constraint costs beside a training step of the model.

    Args:
        model: without regularizers of orthwrap's; it is compiled, if it is not, and trained.
        record: what the report calls it.
        measuring: shows how many of the variants are ready.

    Raises:
        NoMatchError: a target matches nothing, or nothing that is trained.
        ValueFault: no batch can be made up for the model.
    """
    until = time.monotonic() + wanted.seconds
    compiling_until = time.monotonic() + _FOR_COMPILING * wanted.seconds
    x, notes = steps.synthetic_inputs(model, wanted.batch)
    y, loss, more = steps.made_ready(model, x)
    bench = Bench(model, survey(LiveStore(model)), x, y, wanted)
    chosen, warnings = bench.variants()
    functions: dict[str, Timed] = {}
    with (
        contextlib.nullcontext(lambda name: None)
        if measuring is None
        else measuring(len(chosen) + 1) as tell
    ):
        ready = bench.fill(functions, chosen, compiling_until, tell)
    seconds = in_turn(functions, until=until)
    order = list(PENALTIES)
    penalties = (v for v in ready if v.constrain is None)
    rows = [
        bench.row(v, seconds) for v in sorted(penalties, key=lambda v: order.index(v.regularizer))
    ]
    held = tuple(bench.held_row(v, seconds) for v in ready if v.constrain is not None)
    return BenchReport(
        model=record,
        backend=keras.backend.backend(),
        device=asdict(device()),
        precision=str(model.dtype_policy.name),
        versions=versions(),
        batch=wanted.batch,
        loss=loss,
        step=quartiles(seconds[STEP]),
        rounds=len(seconds[STEP]),
        whole=wanted.whole,
        kernels=len(bench.trained),
        parameters=sum(int(np.prod(k.shape)) for k in bench.trained),
        rows=tuple(rows),
        constraints=held,
        orthwrap_version=__version__,
        left_out=tuple(v.name for v in chosen if v not in ready),
        warnings=(*notes, *more, *warnings),
    )


def warm(call: Callable[[], None], times: int = 1) -> Timed:
    """Called twice: the first compiles, the second may do so for what the first has changed."""
    call()
    call()
    return Timed(call, times=times)


def _made(decision: Decision) -> Any:
    """The regularizer or the constraint that was decided on; None where there is none."""
    if decision.constraint is not None:
        return OrthogonalityConstraint(**decision.constraint.to_config())
    if decision.decision != REGULARIZED or decision.attachment is None:
        return None
    return from_attachment(decision.attachment)


class Bench:
    """A model whose kernels get one penalty or constraint after another."""

    def __init__(self, model: Any, surveyed: Survey, x: Any, y: Any, wanted: Wanted) -> None:
        self._model, self._surveyed, self._wanted = model, surveyed, wanted
        self._batch = x, y
        self.pairs: dict[str, list[tuple[Any, Any]]] = {}
        self.is_compiled = bool(model.jit_compile) and not model.run_eagerly
        self.trained: list[Any] = []

    def variants(self) -> tuple[list[Variant], tuple[str, ...]]:
        """Those that some kernel can have and that are none of the others; and notes.

        Raises:
            NoMatchError: no kernel that is trained can have any.
        """
        chosen, notes, kernels = [], [], {}
        last: Exception | None = None
        for variant in variants(self._wanted.regularizers, self._wanted.constrain):
            try:
                pairs = self._chosen(variant)
            except NoMatchError as e:
                last = e
                if variant.how in ("exact", "held"):
                    notes.append(f"{variant.regularizer}: {e}")
                continue
            if variant.how == "auto" and not self._is_mixed(pairs):
                continue
            self.pairs[variant.name] = pairs
            chosen.append(variant)
            kernels.update({id(kernel): kernel for _, kernel in pairs})
        if last is not None and not chosen:
            raise last
        self.trained = list(kernels.values())
        return chosen, tuple(notes)

    def _chosen(self, variant: Variant) -> list[tuple[Any, Any]]:
        """The regularizers or constraints of a variant, each with a kernel that is trained."""
        planned = plan(self._surveyed, [self._rule(variant)])
        trained = {id(v): v for v in self._model.trainable_variables}
        pairs = []
        for decision in planned.decisions:
            made = _made(decision)
            if made is None:
                continue
            keys = [k.weight.key for k in decision.slot.kernels if k.weight is not None]
            pairs += [(made, trained[key]) for key in keys if key in trained]
        if not pairs:
            raise NoMatchError("none of the kernels that were chosen is trained")
        return pairs

    def _rule(self, variant: Variant) -> Rule:
        words: dict[str, Any] = {"exclude": self._wanted.exclude}
        if self._wanted.target is not None:
            words["target"] = self._wanted.target
        if variant.constrain is not None:
            return Rule(constrain=variant.constrain, **words)
        words["factor"] = 1e-4
        return Rule(regularizer=variant.regularizer, options=dict(variant.options), **words)

    def _is_mixed(self, pairs: Sequence[tuple[Any, Any]]) -> bool:
        """Whether `auto` takes the exact value of some kernels and the estimate of others."""
        here = on_processor()
        found = set()
        for regularizer, kernel in pairs:
            attachment, shape = regularizer.attachment, tuple(kernel.shape)
            m, n = attachment.sides(regularizer.layout_for(shape), shape)
            found.add(exact_is_cheaper(m, n, attachment.option(PROBES), here))
        return len(found) > 1

    def fill(
        self, functions: dict[str, Timed], chosen: Sequence[Variant], until: float, tell: Tell
    ) -> list[Variant]:
        """Compiles the step and the variants, until there is no time for more; those done."""
        try:
            return self._filled(functions, chosen, until, tell)
        finally:
            programs.drop_waiting()  # else leaving the process would wait for them

    def _filled(
        self, functions: dict[str, Timed], chosen: Sequence[Variant], until: float, tell: Tell
    ) -> list[Variant]:
        step = steps.training_step(self._model, *self._batch)
        nothing = None if self._wanted.whole else passes.nothing(self.trained, self.is_compiled)
        calls = self._calls(chosen, until)
        first = next(calls)  # so that others are compiled beside the step
        functions[STEP] = warm(step)
        tell("training step")
        if nothing is not None:
            functions[NOTHING] = warm(nothing, passes.times())
        ready: list[Variant] = []
        for variant, call in chain([first], calls):
            if ready and time.monotonic() > until and not programs.drop_waiting():
                break
            with contextlib.suppress(CancelledError):
                functions[variant.name] = self._warmed(variant, call)
                ready.append(variant)
                tell(variant.name)
        return ready

    def _calls(self, chosen: Sequence[Variant], until: float) -> Iterator[tuple[Variant, _Call]]:
        """Each variant's function; so many are made ahead as are compiled beside each other."""
        made: deque[tuple[Variant, _Call]] = deque()
        for variant in chosen:
            made.append((variant, self._function(variant)))
            if len(made) > programs.beside_each_other():
                yield made.popleft()
            if time.monotonic() > until:
                break
        yield from made

    def timed(self, variant: Variant) -> Timed:
        """One of `variants`, compiled."""
        return self._warmed(variant, self._function(variant))

    def _warmed(self, variant: Variant, call: _Call) -> Timed:
        times = 1 if self._wanted.whole else passes.times()
        return replace(warm(call, times), calls=variant.every)

    def _function(self, variant: Variant) -> Callable[[], None]:
        if self._wanted.whole:
            return self._whole_step(variant)
        make = passes.pulls if variant.is_pull else passes.loss_and_gradients
        make = make if variant.constrain is None else passes.holds
        return make(self.pairs[variant.name], self.is_compiled)

    def _whole_step(self, variant: Variant) -> Callable[[], None]:
        """The step of a copy that carries the penalty."""
        planned = plan(self._surveyed, [self._rule(variant)])
        model, _ = rebuild(LiveStore(self._model), planned.edits)
        if variant.is_pull:
            Pull(passes.PULL_RATE).start(model)
        return steps.training_step(model, *self._batch)

    def row(self, variant: Variant, seconds: dict[str, Seconds]) -> CostRow:
        """Of a penalty."""
        found = vars(self._cost(variant, seconds))
        return CostRow(variant.regularizer, variant.how, dict(variant.options), **found)

    def held_row(self, variant: Variant, seconds: dict[str, Seconds]) -> HeldRow:
        """Of a constraint."""
        return HeldRow(str(variant.constrain), **vars(self._cost(variant, seconds)))

    def _cost(self, variant: Variant, seconds: dict[str, Seconds]) -> Cost:
        added = seconds[variant.name] - seconds[STEP if self._wanted.whole else NOTHING]
        share = quartiles(np.maximum(added, 0.0) / seconds[STEP])
        return Cost(
            kernels=len(self.pairs[variant.name]),
            seconds=max(quartiles(added).median, 0.0),
            share=share.median,
            share_low=share.low,
            share_high=share.high,
        )
