"""The verbs: inspect, apply, finetune, strip, compare. They parse nothing and print nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orthwrap import nodes
from orthwrap._version import __version__
from orthwrap.errors import RebuildError, UsageError, ValueFault
from orthwrap.layouts import Layout
from orthwrap.loading import load_compiled, save_model
from orthwrap.measure import EXACT_LIMIT, measure
from orthwrap.nodes import Attachment
from orthwrap.outputs import DEFAULT_SUFFIX, check_output, format_of, output_for
from orthwrap.plan import (
    Decision,
    Kernel,
    Plan,
    Survey,
    plan,
    plan_inspect,
    plan_strip,
    survey,
    template,
)
from orthwrap.records import (
    DEFAULT_TARGET,
    CompareReport,
    Comparison,
    Deviation,
    LayerRecord,
    Report,
    Rule,
)
from orthwrap.stores import Store, WeightRef, open_file
from orthwrap.stores.files import FileStore
from orthwrap.stores.replacing import replacing
from orthwrap.walker import edit

if TYPE_CHECKING:
    from orthwrap.finetune import Progress, Settings

PathLike = str | os.PathLike[str]

_SAME_OUTPUTS = 1e-5


@dataclass(frozen=True)
class Result:
    """What a verb gives back.

    Attributes:
        model: the new `keras.Model`; None where a file became a file.
        output: the file written, or None.
        report: what was done, layer by layer.
    """

    model: Any
    output: Path | None
    report: Report


# inspect


def inspect(
    model: Any,
    *,
    target: Any = None,
    exclude: Any = (),
    measure: bool = True,
) -> Report:
    """How orthogonal each kernel is, and what it carries. Changes nothing.

    Args:
        model: a path (`.h5`, `.hdf5`, `.keras`; nothing in the file is run) or a `keras.Model`.
        target: patterns of the kernels to measure; None takes all.
        exclude: patterns of kernels to leave out.
        measure: False skips the figures.

    Raises:
        FileFault: the file cannot be read as a Keras model.
        NoMatchError: a target matches nothing.
    """
    with _opened(model) as store:
        surveyed = survey(store)
        targets = None if target is None else _many(target)
        planned = plan_inspect(surveyed, targets, _many(exclude))
        return _report("inspect", store, surveyed, planned, with_figures=measure)


# apply


def apply(
    model: Any,
    output: PathLike | None = None,
    *,
    target: Any = None,
    exclude: Any = (),
    regularizer: Any = None,
    factor: float | None = None,
    factor_for: Any = (),
    scale: str = "unit",
    on: str = "kernel",
    options: Mapping[str, Any] | None = None,
    existing: str = "combine",
    rules: Sequence[Rule] | None = None,
    measure: bool = True,
    dry_run: bool = False,
    force: bool = False,
    in_place: bool = False,
    data: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Attaches a regularizer to every kernel that matches; with `data`, fine-tunes as well.

    Args:
        model: a path, or a `keras.Model`, which is never changed unless `in_place`.
        output: where to write; from a path, None writes `name-orth` beside the input. From a
            model, None writes nothing.
        target, exclude: one pattern or several (see `orthwrap.patterns`); a callable of the layer's
            record is one too. None targets `all-conv` and `all-dense`.
        regularizer: a name, `"package.module:function"`, or an object; None is `"so"`.
        factor: λ; None takes the regularizer's default, 1e-3 for `"so"`.
        factor_for: `(pattern, factor)` pairs or a mapping; the first match overrides `factor`.
        scale: `"unit"` drives singular values to 1, `"preserve"` to the kernel's own RMS.
        on: `"kernel"` or `"activity"`.
        options: of the regularizer, such as `{"estimate": "sketch"}`.
        existing: keep, combine with or replace a foreign regularizer that is there.
        rules: several `Rule`s instead; the first that matches wins.
        measure: False skips the figures.
        dry_run: decide and report, write nothing.
        force: an existing output may be replaced (never the input).
        in_place: change the live model itself, where its config cannot rebuild it.
        data: `.npz` path, mapping or `(x, y)`; then the result is trained.
        epochs, batch_size, learning_rate, seed: of the training.
        custom_objects: the file's own classes, for training and conversion.
        progress: shows the training.

    Returns:
        Result; its model is None where a file became a file without Keras.

    Raises:
        OrthwrapError: with one line that says what was expected, found, and to do.
    """
    given = target is not None or bool(_many(exclude)) or regularizer is not None
    if rules is not None and given:
        raise UsageError("rules come instead of target, exclude and regularizer: give one of them")
    if rules is None:
        rules = [
            Rule(
                target=DEFAULT_TARGET if target is None else _many(target),
                exclude=_many(exclude),
                regularizer=Rule.regularizer if regularizer is None else regularizer,
                factor=factor,
                factor_for=tuple(
                    factor_for.items() if isinstance(factor_for, Mapping) else factor_for
                ),
                scale=scale,
                on=on,
                existing=existing,
                options=dict(options or {}),
            )
        ]
    settings = _settings(data, epochs, batch_size, learning_rate, seed)
    job = _Apply(tuple(rules), measure, settings, data, dict(custom_objects or {}), progress)
    if not isinstance(model, (str, os.PathLike)):
        return job.on_model(model, output, force=force, in_place=in_place, dry_run=dry_run)
    if in_place:
        raise UsageError("in_place changes a live model; a file is never changed: leave it out")
    return job.on_file(Path(model), output, force=force, dry_run=dry_run)


@dataclass(frozen=True)
class _Apply:
    rules: tuple[Rule, ...]
    measure: bool
    settings: Settings | None
    data: Any
    custom_objects: dict[str, Any]
    progress: Progress | None

    def on_file(self, path: Path, output: PathLike | None, *, force: bool, dry_run: bool) -> Result:
        with _opened(path) as store:
            target = output_for(path, output, "apply", store.format)
            if not dry_run:
                check_output(target, path, force)
            templates, functions = _templates(self.rules)
            if any("<" in reference for reference in functions):
                raise ValueFault(
                    f"a file can refer to a function only as package.module:function; got "
                    f"{next(r for r in functions if '<' in r)!r}: give it a name in a module"
                )
            surveyed = survey(store)
            planned = plan(surveyed, self.rules, templates)
            _check_foreign(planned)
            report = _report("apply", store, surveyed, planned, with_figures=self.measure)
            if dry_run:
                return Result(None, None, report)
            root = edit(store.root, planned.edits)
            if self.settings is None and format_of(target) == store.format:
                _write(store, root, target, path)
                return Result(None, target, replace(report, output=str(target)))
            with _temporary(store, root) as surgery:
                live, notes = load_compiled(surgery, self.custom_objects)
        return self._finish(live, _noted(report, notes), target)

    def on_model(
        self, model: Any, output: PathLike | None, *, force: bool, in_place: bool, dry_run: bool
    ) -> Result:
        from orthwrap.stores.live import LiveStore

        target = None if output is None else Path(output)
        if target is not None:
            format_of(target)
            if not dry_run:
                check_output(target, None, force)
        store = LiveStore(model)
        templates, functions = _templates(self.rules)
        surveyed = survey(store)
        planned = plan(surveyed, self.rules, templates)
        _check_foreign(planned, functions)
        report = _report("apply", store, surveyed, planned, with_figures=self.measure)
        if dry_run:
            return Result(None, None, report)
        changed, notes = _changed_model(store, planned, functions, in_place=in_place)
        return self._finish(changed, _noted(report, notes), target)

    def _finish(self, model: Any, report: Report, target: Path | None) -> Result:
        if self.settings is not None:
            report = _train(model, report, self.data, self.settings, self.progress, self.measure)
        if target is not None:
            save_model(model, target)
            report = replace(report, output=str(target))
        return Result(model, target, report)


# finetune


def finetune(
    model: Any,
    data: Any,
    output: PathLike | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    measure: bool = True,
    force: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Goes on training a model that already carries regularizers.

    Args:
        model: a path, or a `keras.Model`, of which a copy is trained.
        data, epochs, batch_size, learning_rate, seed, custom_objects, progress: as in `apply`.
        output: from a path, None writes `name-tuned` beside the input.
    """
    settings = _settings(data, epochs, batch_size, learning_rate, seed)
    if settings is None:
        raise UsageError("finetune needs data")
    target = None if output is None else Path(output)
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        with _opened(path) as store:
            target = output_for(path, output, "finetune", store.format)
            check_output(target, path, force)
            surveyed = survey(store)
            report = _report(
                "finetune", store, surveyed, plan_inspect(surveyed), with_figures=measure
            )
        live, notes = load_compiled(path, custom_objects)
    else:
        from orthwrap.stores.live import LiveStore, rebuild

        if target is not None:
            format_of(target)
            check_output(target, None, force)
        live_store = LiveStore(model)
        surveyed = survey(live_store)
        report = _report(
            "finetune", live_store, surveyed, plan_inspect(surveyed), with_figures=measure
        )
        live, notes = rebuild(live_store, ())
    report = _noted(report, notes)
    if not any(r.carries for r in report.layers):
        report = _noted(
            report, ("no kernel carries an orthwrap regularizer: use apply to attach one",)
        )
    report = _train(live, report, data, settings, progress, measure)
    if target is not None:
        save_model(live, target)
        report = replace(report, output=str(target))
    return Result(live, target, report)


# strip


def strip(
    model: Any,
    output: PathLike | None = None,
    *,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
) -> Result:
    """Takes out orthwrap's regularizers and gives back what was there before them.

    Args:
        model: a path, or a `keras.Model`, of which a plain copy is made unless `in_place`.
        output: from a path, None writes `name-plain` beside the input.
        force: an existing output may be replaced (never the input).
        dry_run: report, write nothing.
    """
    if isinstance(model, (str, os.PathLike)):
        if in_place:
            raise UsageError("in_place changes a live model; a file is never changed: leave it out")
        path = Path(model)
        with _opened(path) as store:
            target = output_for(path, output, "strip", store.format)
            if not dry_run:
                check_output(target, path, force)
            surveyed = survey(store)
            planned = plan_strip(surveyed)
            report = _report("strip", store, surveyed, planned, with_figures=False)
            if dry_run:
                return Result(None, None, report)
            root = edit(store.root, planned.edits)
            if format_of(target) == store.format:
                _write(store, root, target, path)
                return Result(None, target, replace(report, output=str(target)))
            with _temporary(store, root) as surgery:
                live, _ = load_compiled(surgery)
        save_model(live, target)
        return Result(live, target, replace(report, output=str(target)))

    from orthwrap.stores.live import LiveStore

    live_store = LiveStore(model)
    surveyed = survey(live_store)
    planned = plan_strip(surveyed)
    report = _report("strip", live_store, surveyed, planned, with_figures=False)
    if dry_run:
        return Result(None, None, report)
    changed, notes = _changed_model(live_store, planned, {}, in_place=in_place)
    report = _noted(report, notes)
    target_path = None if output is None else Path(output)
    if target_path is not None:
        check_output(target_path, None, force)
        save_model(changed, target_path)
        report = replace(report, output=str(target_path))
    return Result(changed, target_path, report)


# compare


def compare(before: Any, after: Any, *, measure: bool = True) -> CompareReport:
    """Two models, kernel by kernel: figures, weights, regularizers.

    Args:
        before, after: paths or `keras.Model`s. Kernels are joined by layer path and name.
    """
    with _opened(before) as first, _opened(after) as second:
        sides = [_kernels(store) for store in (first, second)]
        keys = list(dict.fromkeys((*sides[0], *sides[1])))
        rows = tuple(
            _compare_kernel(key, sides[0].get(key), sides[1].get(key), measure) for key in keys
        )
        return CompareReport(first.record, second.record, rows, __version__)


_Key = tuple[str, str, str]  # path, slot, kernel


def _kernels(store: Store) -> dict[_Key, tuple[Kernel, Decision]]:
    surveyed = survey(store)
    return {
        (kernel.layer.path, decision.slot.name, kernel.spec.name): (kernel, decision)
        for decision in plan_inspect(surveyed).decisions
        for kernel in decision.slot.kernels
    }


def _compare_kernel(
    key: _Key,
    before: tuple[Kernel, Decision] | None,
    after: tuple[Kernel, Decision] | None,
    with_figures: bool,
) -> Comparison:
    path, slot, name = key
    there = after or before
    assert there is not None  # the key came from one of them
    weights = [None if side is None else side[0].weight for side in (before, after)]
    arrays = [None if w is None else w.read() for w in weights]
    status, change = "gone" if after is None else "added", None
    if arrays[0] is not None and arrays[1] is not None:
        if arrays[0].shape != arrays[1].shape:
            status = "reshaped"
        else:
            size = float(np.linalg.norm(np.asarray(arrays[0], np.float64)))
            gap = float(np.linalg.norm(np.asarray(arrays[1], np.float64) - arrays[0]))
            change = gap / size if size else gap
            status = "same" if np.array_equal(arrays[0], arrays[1]) else "changed"
    figures = [
        _figures(side[0], side[1].attachment) if side is not None and with_figures else None
        for side in (before, after)
    ]
    carried = [
        None
        if side is None or side[1].slot.existing is None
        else nodes.describe(side[1].slot.existing)
        for side in (before, after)
    ]
    return Comparison(
        path=path,
        slot=slot,
        kernel=name,
        class_name=there[0].layer.class_name,
        shape_before=None if weights[0] is None else weights[0].shape,
        shape_after=None if weights[1] is None else weights[1].shape,
        status=status,
        weight_change=change,
        regularizer_before=carried[0],
        regularizer_after=carried[1],
        before=figures[0],
        after=figures[1],
    )


# Parts


def _many(value: Any) -> tuple[Any, ...]:
    """One pattern or several, as several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) or callable(value) else tuple(value)


class _opened:
    """The store of a path or a live model, closed at the end."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __enter__(self) -> Any:
        if isinstance(self._model, (str, os.PathLike)):
            self._store: Any = open_file(Path(self._model))
        else:
            from orthwrap.stores.live import LiveStore

            self._store = LiveStore(self._model)
        return self._store

    def __exit__(self, *error: object) -> None:
        self._store.close()


def _templates(rules: Sequence[Rule]) -> tuple[list[Attachment], dict[str, Any]]:
    """Each rule's regularizer as an attachment; and the functions that references stand for."""
    templates, functions = [], {}
    for rule in rules:
        value = rule.regularizer
        if isinstance(value, str):
            made = template(rule)
            if isinstance(made.foreign, str):
                from orthwrap.regularizers import import_reference

                import_reference(made.foreign)
        else:
            from orthwrap.regularizers import attachment_of

            if rule.options:
                raise ValueFault("options go with a regularizer's name; set them on the object")
            made = attachment_of(value, rule.factor)
            if made.is_penalty and rule.scale != "unit":
                made = replace(made, scale=rule.scale)
            if isinstance(made.foreign, str):
                functions[made.foreign] = value
        templates.append(made)
    return templates, functions


def _check_foreign(planned: Plan, functions: Mapping[str, Any] | None = None) -> None:
    """Calls each foreign regularizer once on each kernel shape it is attached to."""
    checked = set()
    for decision in planned.changes:
        attachment = decision.attachment
        if attachment is None or attachment.is_penalty or attachment.name in ("l1", "l2", "l1_l2"):
            continue
        from orthwrap.regularizers import check_callable, resolve

        given = (functions or {}).get(str(attachment.foreign))
        function = resolve(attachment.foreign) if given is None else given
        shapes = [k.weight.shape for k in decision.slot.kernels if k.weight is not None] or [(8, 4)]
        for shape in shapes:
            if (attachment.name, shape) not in checked:
                checked.add((attachment.name, shape))
                check_callable(function, shape, decision.slot.layer.path, attachment.name)


def _changed_model(
    store: Any, planned: Plan, functions: Mapping[str, Any], *, in_place: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model with the plan done: a checked copy, or the live one itself."""
    from orthwrap.stores.live import LiveStore, output_difference, rebuild

    if in_place:
        for decision in planned.changes:
            _set_live(store, decision, functions)
        _forget_compiled(store.model)
        return store.model, ()
    with _known(functions):
        model, notes = rebuild(store, planned.edits)
    live_only = [d for d in planned.changes if not d.slot.layer.pointers]
    if live_only:
        copy = LiveStore(model)
        copy.layers()
        for decision in live_only:
            _set_live(copy, decision, functions)
        notes = (
            *notes,
            f"{live_only[0].slot.layer.path} and {len(live_only) - 1} more are not in the model's "
            "config: their regularizers act now, but a saved file keeps them only if the class's "
            "get_config does",
        )
    difference = output_difference(store.model, model)
    if difference is None:
        notes = (*notes, "outputs of original and copy could not be compared: no inputs were known")
    elif not difference <= _SAME_OUTPUTS:
        raise RebuildError(
            f"model {store.model.name!r}: the copy made from its config gives other outputs (by "
            f"{difference:.3g}): use in_place=True, or mend the class's get_config"
        )
    return model, notes


class _known:
    """Functions that have no importable name are found by their reference while this is active."""

    def __init__(self, functions: Mapping[str, Any]) -> None:
        import keras

        self._scope = keras.saving.custom_object_scope(dict(functions))

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *error: object) -> None:
        self._scope.__exit__(*error)


def _set_live(store: Any, decision: Decision, functions: Mapping[str, Any]) -> None:
    import keras

    from orthwrap.regularizers import from_attachment
    from orthwrap.stores.live import set_regularizer, variable_of

    live = store.object_of(decision.slot.layer)
    attachment = decision.attachment
    if attachment is not None:
        made = from_attachment(attachment, functions.get(str(attachment.foreign)))
    else:
        value = decision.value if isinstance(decision.value, (str, Mapping)) else None
        made = keras.regularizers.get(dict(value) if isinstance(value, Mapping) else value)
    variables = [variable_of(live, k.spec) for k in decision.slot.kernels]
    set_regularizer(live, decision.slot.key, [v for v in variables if v is not None], made)


def _forget_compiled(model: Any) -> None:
    """Steps that Keras compiled before know nothing of the new regularizers."""
    for name in ("train_function", "test_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def _write(store: FileStore, root: Any, target: Path, source: Path) -> None:
    with replacing(target, like=source) as sibling:
        store.write(sibling, root)
        store.check_copy(sibling, json.loads(json.dumps(root)))


class _temporary:
    """The edited file in a folder of its own, for Keras to load."""

    def __init__(self, store: FileStore, root: Any) -> None:
        self._store, self._root = store, root

    def __enter__(self) -> Path:
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="orthwrap-")
        path = Path(self._folder.name) / f"model{DEFAULT_SUFFIX[self._store.format]}"
        self._store.write(path, self._root)
        return path

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def _settings(
    data: Any,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int | None,
) -> Settings | None:
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    given = {k: v for k, v in given.items() if v is not None}
    if data is None:
        if given:
            raise UsageError(f"{next(iter(given))} is about training, which needs data")
        return None
    from orthwrap.finetune import Settings

    return Settings(**given)  # type: ignore[arg-type]  # each value has its own field's type


def _train(
    model: Any,
    report: Report,
    source: Any,
    settings: Settings,
    progress: Progress | None,
    with_figures: bool,
) -> Report:
    from orthwrap.finetune import finetune, read_data
    from orthwrap.stores.live import LiveStore

    data = read_data(model, source)
    factors = {
        r.path if r.slot == "kernel" else f"{r.path}@{r.slot}": r.regularizer.factor
        for r in report.layers
        if r.carries and r.regularizer is not None
    }
    training = finetune(model, data, settings, progress, factors)
    report = replace(report, training=training)
    if not with_figures:
        return report
    store = LiveStore(model)
    after = {
        (k.layer.path, s.name, k.spec.name): (k, s.current)
        for s in survey(store).slots
        for k in s.kernels
    }
    layers = []
    for record in report.layers:
        found = after.get((record.path, record.slot, record.kernel or ""))
        if record.before is not None and found is not None:
            record = replace(record, after=_figures(found[0], found[1]))
        layers.append(record)
    return replace(report, layers=tuple(layers))


# Reports


def _report(
    command: str, store: Store, surveyed: Survey, planned: Plan, *, with_figures: bool
) -> Report:
    records: list[LayerRecord] = []
    estimated = []
    for decision in planned.decisions:
        for kernel in decision.slot.kernels or (None,):
            record = _record(decision, kernel)
            if with_figures and kernel is not None and decision.measured:
                record = replace(record, before=_figures(kernel, decision.attachment))
                if record.before is not None and record.before.sigma_min is None:
                    estimated.append(record.path)
            records.append(record)
    warnings = planned.warnings
    large = [p for p in estimated if _is_large(records, p)]
    if large:
        warnings = (
            *warnings,
            f"{', '.join(large)}: more than {EXACT_LIMIT} singular values, so the residual and the "
            "largest are estimated and the smallest is left out",
        )
    return Report(
        command=command,
        model=store.record,
        layers=tuple(records),
        layer_count=surveyed.layer_count,
        orthwrap_version=__version__,
        warnings=warnings,
    )


def _noted(report: Report, notes: Sequence[str]) -> Report:
    return replace(report, warnings=(*report.warnings, *notes))


def _is_large(records: Sequence[LayerRecord], path: str) -> bool:
    return any(
        r.path == path and r.matrices is not None and min(r.matrices[1:]) > EXACT_LIMIT
        for r in records
    )


def _record(decision: Decision, kernel: Kernel | None) -> LayerRecord:
    slot = decision.slot
    layer = slot.layer if kernel is None else kernel.layer
    weight: WeightRef | None = None if kernel is None else kernel.weight
    layout = None if kernel is None or weight is None else _layout_of(kernel, decision.attachment)
    attachment = decision.attachment
    return LayerRecord(
        path=layer.path,
        class_name=layer.class_name,
        slot=slot.name,
        kernel=None if kernel is None else kernel.spec.name,
        shape=None if weight is None else weight.shape,
        layout=None if layout is None else layout.name,
        matrices=None if layout is None or weight is None else layout.matrices(weight.shape),
        decision=decision.decision,
        reason=decision.reason,
        trainable=layer.trainable,
        rule=decision.rule,
        regularizer=None if attachment is None else attachment.record(),
        previous=decision.previous,
    )


def _layout_of(kernel: Kernel, attachment: Attachment | None) -> Layout | None:
    """The layout the regularizer reads the kernel by; the kernel's own where there is none."""
    if attachment is None or attachment.layout is None or kernel.weight is None:
        return kernel.layout
    return attachment.layout.for_shape(kernel.weight.shape)


def _figures(kernel: Kernel, attachment: Attachment | None) -> Deviation | None:
    if kernel.weight is None:
        return None
    layout = _layout_of(kernel, attachment)
    if layout is None:
        return None
    regularizer = None
    if attachment is not None and attachment.is_penalty and attachment.on == "kernel":
        regularizer = {"name": attachment.name, "alpha": attachment.alpha}
    return measure(kernel.weight.read(), layout, regularizer)
