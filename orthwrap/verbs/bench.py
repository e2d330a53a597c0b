"""bench: what each penalty and constraint costs on a model and on the device that is there."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from orthwrap.costs.wanted import Wanted, checked
from orthwrap.errors import Faults
from orthwrap.model_config.tfmot import check_wrappers
from orthwrap.model_config.tree import edit
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_strip
from orthwrap.report.cost_record import BenchReport
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.rules.patterns import chosen_by, several
from orthwrap.stores.outputs import PathLike
from orthwrap.surgery import changed_model, load_changed
from orthwrap.survey import survey
from orthwrap.verbs.measuring import measuring_of

if TYPE_CHECKING:
    from orthwrap.report.progress import MeasuringProgress


def bench(
    model: Any,
    *,
    weights: PathLike | None = None,
    batch: int = 32,
    target: Any = None,
    exclude: Any = (),
    regularizer: Any = None,
    constrain: Any = None,
    whole: bool = False,
    seconds: float = 60.0,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
    progress: MeasuringProgress | bool | None = None,
) -> BenchReport:
    """What each penalty, estimate of one, and constraint would cost: its time, and share of a step.

    The step is one of the model's own training, with its loss and optimizer, on a batch made up in
    the shape of its inputs; of a model that is not compiled, with the mean of its outputs as the
    loss. Penalties are measured in turn with it, in one process, on the backend that Keras has.

    Args:
        model: a path, or a `keras.Model`, which stays as it is: a copy is trained. What it carries
            of orthwrap's is left out.
        weights: as in `apply`.
        batch: samples of a step.
        target: as in `apply`: which kernels would carry a penalty.
        exclude: as in `apply`.
        regularizer: the name of a penalty, or several. None measures all, with the constraints
            orthogonal, spectral:1 and band:0.9,1.1, unless `constrain` is given.
        constrain: a constraint as `apply` takes it, or several: measured beside what `regularizer`
            names, or alone.
        whole: True measures each within a step of its own, which is compiled for it, as the device
            may do some of it beside the rest. False measures loss and gradient alone.
        seconds: so long it takes at most, beyond what is being compiled then; what is not measured
            is in the report's `left_out`. The first penalty is always measured, three times.
        custom_objects: as in `finetune`, by which a file is loaded.
        unsafe_lambda: as in `finetune`.
        progress: True shows on the screen how far it is.

    Raises:
        FileFault: the file cannot be loaded.
        NoMatchError: a target matches nothing, or nothing that is trained.
        ValueFault: a value out of range, or a model for which no batch can be made up.
        RebuildError: a live model cannot be copied.
    """
    faults = Faults()
    known = faults.of(custom_objects_of, custom_objects)
    names = None if regularizer is None else several(regularizer)
    held = None if constrain is None else several(constrain)
    chosen = faults.of(chosen_by, target, exclude) or (None, ())
    wanted = faults.of(checked, Wanted(batch, chosen[0], chosen[1], names, held, whole, seconds))
    faults.raise_all()
    measuring: Any = measuring_of(progress)
    is_file = isinstance(model, (str, os.PathLike))
    with opened(model, weights=weights) as source:
        surveyed = survey(source.store)
        check_wrappers(surveyed.layers)
        planned = plan_strip(surveyed)
        if is_file:
            root = edit(source.store.root, planned.edits)
            live, _ = load_changed(source, root, known, unsafe_lambda)
        else:
            live, _, _ = changed_model(source.store, planned, known, in_place=False)
        from orthwrap.costs.benching import measured

        shown = None if measuring is None else partial(measuring, title="ready", of="penalties")
        return measured(live, source.store.record, wanted, shown)
