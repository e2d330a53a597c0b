"""Penalties of each sample's own matrix, held against the outputs that they are to be of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orthwrap.errors import ValueFault
from orthwrap.penalties.options import GRAM, SHAPE, sides_of
from orthwrap.penalties.sample_shapes import why_no_matrices
from orthwrap.plan.decision import Plan


def check_samples(
    planned: Plan, outputs: Callable[[], Mapping[str, Sequence[tuple[int, ...]]]]
) -> None:
    """ValueFault where outputs are no matrices, before any regularizer is set.

    Args:
        outputs: gives the shapes of layers' outputs, by path; asked where a penalty is of samples.
            Where they are not known, nothing is said before the regularizer is called.
    """
    known: Mapping[str, Sequence[tuple[int, ...]]] | None = None
    for decision in planned.changes:
        attachment = decision.attachment
        if attachment is None or attachment.on != "activity" or attachment.option(GRAM) == "batch":
            continue
        known = outputs() if known is None else known
        path = decision.slot.layer.path
        for shape in known.get(path, ()):
            problem = why_no_matrices(shape, sides_of(attachment.option(SHAPE)))
            if problem:
                raise ValueFault(f"{path}: {problem}")
