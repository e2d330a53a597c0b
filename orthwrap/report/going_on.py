"""How to train what came out: what a plain `fit` of it does, and the lines for more."""

from __future__ import annotations

from orthwrap.penalties.table import PENALTIES
from orthwrap.report.record import LayerRecord, Report


def going_on(report: Report) -> tuple[str, ...]:
    """A line each; none where nothing that has a pull was attached or pulled."""
    if report.command == "apply" and report.training is None:
        if not any(_has_pull(record) for record in report.layers):
            return ()
        return (
            "Attached, not trained. In a fit of your own the penalty goes through the optimizer; "
            "Adam moves a weight by its rate at most at each step, whatever the factor. To get "
            "there:",
            '    goal = orthwrap.Goal("10x", validation=(x_val, y_val))',
            "    model.fit(x, y, epochs=20, callbacks=[goal])",
        )
    rates = [r.regularizer.pull for r in report.layers if r.regularizer and r.regularizer.pull]
    if not rates:
        return ()
    return (
        "A plain fit of the result adds the penalty with its factor to the loss instead; to go on "
        "with the pull:",
        f"    model.fit(x, y, callbacks=[orthwrap.Pull({sorted(rates)[len(rates) // 2]:.2g})])",
    )


def _has_pull(record: LayerRecord) -> bool:
    """Whether it carries a regularizer of a kernel that could be pulled."""
    if not record.carries or record.kernel is None or record.regularizer is None:
        return False
    penalty = PENALTIES.get(record.regularizer.name)
    return penalty is not None and penalty.pull is not None
