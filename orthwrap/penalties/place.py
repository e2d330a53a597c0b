"""What a regularizer can be asked for on kernels, and what on outputs."""

from __future__ import annotations

from orthwrap.errors import UsageError
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.options import (
    CENTER,
    ESTIMATE,
    FILTER_GROUPS,
    GRAM,
    OF_OUTPUTS,
    PRECISION,
    SHAPE,
    SIDE,
)


def check_place(attachment: Attachment, on: str) -> None:
    """UsageError where it is asked for something that there is not on `"kernel"` or `"activity"`.

    Args:
        attachment: a regularizer with what was asked of it.
        on: where it is to be.
    """
    given = attachment.options
    if on == "kernel":
        of_outputs = [option.name for option in OF_OUTPUTS if option.name in given]
        if of_outputs:
            raise UsageError(
                f"option {of_outputs[0]} is of outputs: say on activity, or leave it out"
            )
        return
    penalty = attachment.penalty
    if penalty is not None and penalty.on_outputs is None:
        raise UsageError(
            f"{penalty.name} is a penalty of kernels: choose another one with on activity"
        )
    if attachment.option(ESTIMATE) == "sketch":
        raise UsageError("estimate sketch works on kernels: leave it out with on activity")
    if attachment.option(PRECISION) is not None:
        raise UsageError("precision is of products of kernels: leave it out with on activity")
    if attachment.scale != "unit":
        raise UsageError(
            f"scale {attachment.scale} works on kernels: leave it out with on activity"
        )
    if FILTER_GROUPS.name in given:
        raise UsageError("filter_groups works on kernels: leave it out with on activity")
    is_of_samples = attachment.option(GRAM) == "sample"
    for option in () if is_of_samples else (SIDE, SHAPE):
        if option.name in given:
            raise UsageError(f"option {option.name} goes with gram=sample: say that too")
    if is_of_samples and CENTER.name in given:
        raise UsageError("center is of the whole batch: leave out center or gram=sample")
