"""inspect: how orthogonal each kernel is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orthwrap.errors import Faults
from orthwrap.model_config.tfmot import told_of
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_inspect
from orthwrap.report.make import make_report, with_notes
from orthwrap.report.record import Report
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.rules.patterns import chosen_by
from orthwrap.stores.outputs import PathLike
from orthwrap.survey import survey
from orthwrap.verbs import notes
from orthwrap.verbs.measuring import check_operator, measuring_of

if TYPE_CHECKING:
    from orthwrap.report.progress import MeasuringProgress


def inspect(
    model: Any,
    *,
    weights: PathLike | None = None,
    target: Any = None,
    exclude: Any = (),
    measure: bool = True,
    operator: bool = False,
    upgrade: bool = True,
    custom_objects: CustomObjects | None = None,
    progress: MeasuringProgress | bool | None = None,
) -> Report:
    """How orthogonal each kernel is, and what it carries. Changes nothing.

    Args:
        model: a path (`.h5`, `.hdf5`, `.keras`; nothing in the file is run) or a `keras.Model`.
        weights: the file of weights that goes with a `model.json`, what `model.to_json()` gave.
        target: patterns of the kernels to measure; None takes all.
        exclude: patterns of kernels to leave out.
        measure: False skips the figures.
        operator: True adds the figures of each convolution itself, beside those of its kernel as
            a matrix: `norm_upper`, `norm_lower`, `sigma_min`, `residual`, `stable_rank`. Takes
            seconds for each large kernel.
        upgrade: False reads a file of an older Keras as it stands.
        custom_objects: as in `apply`; here only for what `register_penalty` needs importing.
        progress: True shows on the screen how far the figures of the operators are; so does an
            object like `orthwrap.report.progress.MeasuringProgress`.

    Raises:
        FileFault: the file cannot be read as a Keras model.
        NoMatchError: a target matches nothing.
        UsageError: `operator` without `measure`.
    """
    faults = Faults()
    faults.of(check_operator, operator, measure=measure)
    faults.of(custom_objects_of, custom_objects)
    chosen = faults.of(chosen_by, target, exclude)
    faults.raise_all()
    with opened(model, upgrade=upgrade, weights=weights) as source:
        surveyed = survey(source.store)
        planned = plan_inspect(surveyed, *chosen)
        report = make_report(
            "inspect",
            source,
            surveyed,
            planned,
            with_figures=measure,
            with_operator=operator,
            measuring=measuring_of(progress),
        )
        report = with_notes(report, told_of(surveyed.layers))
        if source.store.format == "memory":
            return report
        root = source.store.root
        return with_notes(report, (*notes.of_references(root), *notes.of_code(root)))
