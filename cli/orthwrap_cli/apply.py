"""`orthwrap apply`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from orthwrap.errors import OrthwrapError, UsageError
from orthwrap.rules.rule import AttachWords
from orthwrap.training.settings import TrainingWords
from orthwrap_cli import options as o
from orthwrap_cli import training_options as t
from orthwrap_cli.command import command
from orthwrap_cli.word_options import with_words

_Rules = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        readable=False,
        help="[[rule]] tables whose keys are the options above; the first that matches wins.",
        rich_help_panel="What to attach",
    ),
]


@command("report")
@with_words(attach=AttachWords, training=TrainingWords)
def apply(
    model: o.Model,
    output: Annotated[Path | None, o.output_of("apply")] = None,
    weights: o.Weights = None,
    attach: Any = None,
    rules: _Rules = None,
    data: t.Data = None,
    training: Any = None,
    no_upgrade: o.NoUpgrade = False,
    dry_run: o.DryRun = False,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
    strict: o.Strict = False,
    no_measure: o.NoMeasure = False,
    operator: o.Operator = False,
    screen: Any = None,
) -> Any:
    """Attach a regularizer to every kernel that matches; with --data also fine-tune.

    Without --data nothing in the file is run and neither Keras nor TensorFlow is loaded: the copy
    differs from MODEL in the chosen regularizers alone.
    """
    import orthwrap

    if strict and data is None:
        raise UsageError("--strict is about training, which needs --data")
    t.prepare(data, training)
    given = _given(attach, rules)
    return orthwrap.apply(
        model,
        output,
        weights=weights,
        **given,
        data=data,
        **training,
        dry_run=dry_run,
        force=force,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
        measure=not no_measure,
        operator=operator,
        upgrade=not no_upgrade,
        progress=None if data is None and not operator else screen.progress(),
    )


def _given(attach: Mapping[str, Any], rules: Path | None) -> dict[str, Any]:
    """What to attach: the options that were given, and the rules of a file."""
    given = {k: v for k, v in attach.items() if v is not None}
    used = [attach["regularizer"]]
    if rules is not None:
        from orthwrap.rules.file import read_rules

        given["rules"] = rules
        with contextlib.suppress(OrthwrapError):  # what is wrong with it, `apply` says
            given["rules"] = read_rules(rules)
            used += [rule.regularizer for rule in given["rules"]]
    if any(":" in name for name in used if name is not None):
        o.look_here()
    return given
