"""The verbs: inspect, apply, finetune, strip, upgrade, compare. They parse and print nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from orthwrap._version import __version__
from orthwrap.comparing import compare_kernel, kernels_of
from orthwrap.custom_objects import CustomObjects, custom_objects_of
from orthwrap.errors import Interrupted, OrthwrapError, UsageError, ValueFault, listed
from orthwrap.loading import load_compiled, save_model
from orthwrap.needs import code_in, references_in
from orthwrap.opening import opened
from orthwrap.outputs import PathLike, check_output, format_of, output_for
from orthwrap.penalties.attachment import ours_within
from orthwrap.plan import Decision, Plan, plan, plan_inspect, plan_strip
from orthwrap.records import CompareReport, Report
from orthwrap.reports import make_report, noted
from orthwrap.rule import AttachWords, Rule
from orthwrap.stores.replacing import replacing
from orthwrap.surgery import (
    changed_model,
    check_foreign,
    check_references,
    templates_of,
    temporary_copy,
    write_copy,
)
from orthwrap.survey import survey
from orthwrap.training.settings import Settings, TrainingWords, settings_of
from orthwrap.walker import edit
from orthwrap.words import documented, spoken, words_of

if TYPE_CHECKING:
    from orthwrap.data import Data
    from orthwrap.training.fit import Progress
    from orthwrap.training.job import Job
    from orthwrap.training.run import Outcome


@dataclass(frozen=True)
class Result:
    """What a verb gives back.

    Attributes:
        model: the new `keras.Model`; None where a file became a file.
        output: the file written, or None.
        report: what was done, layer by layer.
        process: which of several processes that train together this is; all but 0 write nothing.
    """

    model: Any
    output: Path | None
    report: Report
    process: int = 0

    def __repr__(self) -> str:
        what = [None if self.model is None else f"model={self.model.name!r}"]
        what += [None if self.output is None else f"output={str(self.output)!r}"]
        kernels = self.report.summary
        what += [f"report of {kernels['regularized']} of {kernels['kernels']} kernels"]
        return f"Result({', '.join(w for w in what if w)})"


# inspect


def inspect(
    model: Any,
    *,
    target: Any = None,
    exclude: Any = (),
    measure: bool = True,
    upgrade: bool = True,
    custom_objects: CustomObjects | None = None,
) -> Report:
    """How orthogonal each kernel is, and what it carries. Changes nothing.

    Args:
        model: a path (`.h5`, `.hdf5`, `.keras`; nothing in the file is run) or a `keras.Model`.
        target: patterns of the kernels to measure; None takes all.
        exclude: patterns of kernels to leave out.
        measure: False skips the figures.
        upgrade: False reads a file of an older Keras as it stands.
        custom_objects: as in `apply`; here only for what `register_penalty` needs importing.

    Raises:
        FileFault: the file cannot be read as a Keras model.
        NoMatchError: a target matches nothing.
    """
    custom_objects_of(custom_objects)
    with opened(model, upgrade=upgrade) as source:
        surveyed = survey(source.store)
        targets = None if target is None else _many(target)
        planned = plan_inspect(surveyed, targets, _many(exclude))
        report = make_report("inspect", source, surveyed, planned, with_figures=measure)
        return noted(report, _refers_to(source.store))


def _refers_to(store: Any) -> tuple[str, ...]:
    """A note of the functions that a file's regularizers call where they are loaded."""
    if store.format == "memory":
        return ()
    return tuple(
        f"{reference!r} (in {listed(places)}) is a function that the file does not hold: loading "
        "looks it up only where you name it with --custom-objects"
        for reference, places in references_in(store.root).items()
    )


# apply


class ApplyWords(AttachWords, TrainingWords):
    """What `apply` may be told: what to attach, and how to train."""


@documented(AttachWords, TrainingWords)
def apply(
    model: Any,
    output: PathLike | None = None,
    *,
    rules: Rule | Sequence[Rule] | None = None,
    measure: bool = True,
    upgrade: bool = True,
    dry_run: bool = False,
    force: bool = False,
    in_place: bool = False,
    data: Any = None,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
    progress: Progress | bool | None = None,
    **words: Unpack[ApplyWords],
) -> Result:
    """Attaches a regularizer to every kernel that matches; with `data`, fine-tunes as well.

    Args:
        model: a path, or a `keras.Model`, which is never changed unless `in_place`.
        output: where to write; from a path, None writes `name-orth` beside the input. From a
            model, None writes nothing.
        rules: several `Rule`s instead; the first that matches wins.
        measure: False skips the figures.
        upgrade: False leaves a file of an older Keras in its own words.
        dry_run: decide and report, write nothing.
        force: an existing output may be replaced (never the input).
        in_place: change the live model itself, where its config cannot rebuild it.
        data: what to fine-tune on: the path of a `.npz` or of a folder of images, a reference
            `"package.module:function"` to what gives it, arrays `(x, y)`, a mapping, a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch `DataLoader`.
        custom_objects: the file's own classes, for training and conversion: a mapping by name,
            or references `package.module:Name` (`package.module`: all that it defines). A module
            that registers a penalty (`register_penalty`) is imported before the penalty is
            looked for.
        unsafe_lambda: for training and conversion, run the code that the file keeps.
        progress: True shows the training on the screen; so does an object like
            `orthwrap.render.progress.TrainingProgress`.
        **words: what to attach and how to train:
            {words}

    Returns:
        Result; its model is None where a file became a file without Keras.

    Raises:
        OrthwrapError: with one line that says what was expected, found, and to do.
    """
    attach = words_of(AttachWords)
    given: Any = {k: v for k, v in words.items() if k in attach and v is not None}
    training = {k: v for k, v in words.items() if k not in attach}
    if rules is None:
        rules = [Rule(**given)]
    else:
        if given:
            raise UsageError(f"rules come instead of {next(iter(given))}: put it into the rules")
        rules = [rules] if isinstance(rules, Rule) else list(rules)
        if not rules or not all(isinstance(rule, Rule) for rule in rules):
            raise ValueFault("rules must be one orthwrap.Rule or several")
    if data is None and any(rule.is_auto for rule in rules):
        raise UsageError("factor auto needs data: give data, or a number like 1e-3")
    if data is None and any(rule.schedule is not None for rule in rules):
        raise UsageError("a schedule is about training, which needs data")
    _check_effect(
        training,
        auto=any(rule.is_auto for rule in rules),
        schedule=any(rule.schedule is not None for rule in rules),
    )
    known = custom_objects_of(custom_objects)
    settings = settings_of(
        training, has_data=data is not None, others=(*attach, *(apply.__kwdefaults__ or ()))
    )
    if dry_run and settings is not None:  # which makes no folders
        settings = settings.replace(checkpoint_dir=None, resume=False, tensorboard=None)
    if in_place and settings is not None and settings.devices is not None:
        raise UsageError("devices share a copy of the model: leave in_place out")
    job = _Apply(tuple(rules), measure, _job(data, settings, progress), known, unsafe_lambda)
    with contextlib.nullcontext() if job.job is None else job.job.on_devices():
        if not isinstance(model, (str, os.PathLike)):
            return job.on_model(model, output, force=force, in_place=in_place, dry_run=dry_run)
        _refuse_in_place(in_place)
        return job.on_file(Path(model), output, force=force, dry_run=dry_run, upgrade=upgrade)


@dataclass(frozen=True)
class _Apply:
    rules: tuple[Rule, ...]
    measure: bool
    job: Job | None
    custom_objects: Mapping[str, Any]
    unsafe_lambda: bool

    def on_file(
        self, path: Path, output: PathLike | None, *, force: bool, dry_run: bool, upgrade: bool
    ) -> Result:
        with opened(path, upgrade=upgrade) as source:
            store = source.store
            target = _target(path, output, "apply", store, force, dry_run)
            if self.job is not None:
                self.job.check_log(path, target)
            templates, functions = templates_of(self.rules)
            check_references(functions)
            surveyed = survey(store)
            planned = plan(surveyed, self.rules, templates)
            check_foreign(planned)
            report = make_report("apply", source, surveyed, planned, with_figures=self.measure)
            if dry_run:
                return Result(None, None, report)
            root = edit(store.root, planned.edits)
            if self.job is None and format_of(target) == store.format:
                write_copy(source, root, target, path)
                return Result(None, target, replace(report, output=str(target)))
            with temporary_copy(source, root) as copy:
                live, notes = load_compiled(
                    copy, self.custom_objects, unsafe_lambda=self.unsafe_lambda, shown=path
                )
        data = None if self.job is None else self.job.read(live)
        return self._finish(live, *self._trained(live, data, noted(report, notes), planned), target)

    def on_model(
        self, model: Any, output: PathLike | None, *, force: bool, in_place: bool, dry_run: bool
    ) -> Result:
        with opened(model) as source:
            target = _target(model, output, "apply", source.store, force, dry_run)
            if self.job is not None:
                self.job.check_log(None, target)
            # Data that does not fit is found before anything is done.
            data = None if self.job is None else self.job.read(model)
            templates, functions = templates_of(self.rules)
            surveyed = survey(source.store)
            planned = plan(surveyed, self.rules, templates)
            check_foreign(planned, functions)
            if target is not None:
                check_references(functions)
            report = make_report("apply", source, surveyed, planned, with_figures=self.measure)
            if dry_run:
                return Result(None, None, report)
            with _restored_on_error(model) if in_place else contextlib.nullcontext():
                known = {**self.custom_objects, **functions}
                changed, notes = changed_model(source.store, planned, known, in_place=in_place)
                report, outcome = self._trained(changed, data, noted(report, notes), planned)
        return self._finish(changed, report, outcome, target)

    def _trained(
        self, model: Any, data: Data | None, report: Report, planned: Plan
    ) -> tuple[Report, Outcome | None]:
        if self.job is None or data is None:
            return report, None
        return self.job.train(
            model,
            data,
            report,
            auto=[_place(d) for d in planned.decisions if d.auto],
            schedules=_schedules(planned),
            with_figures=self.measure,
        )

    def _finish(
        self, model: Any, report: Report, outcome: Outcome | None, target: Path | None
    ) -> Result:
        if self.job is None or outcome is None:
            return _saved(model, report, target)
        return _ended(model, report, outcome, target, self.job)


def _restored_on_error(model: Any) -> contextlib.AbstractContextManager[None]:
    from orthwrap.stores.live import restored_on_error

    return restored_on_error(model)


def _schedules(planned: Plan) -> list[tuple[Any, list[tuple[str, str]]]]:
    """The rules' own schedules, each with the slots it is for."""
    found: list[tuple[Any, list[tuple[str, str]]]] = []
    for decision in planned.decisions:
        if decision.schedule is None:
            continue
        places = next((p for s, p in found if s == decision.schedule), None)
        if places is None:
            places = []
            found.append((decision.schedule, places))
        places.append(_place(decision))
    return found


def _place(decision: Decision) -> tuple[str, str]:
    return decision.slot.layer.path, decision.slot.name


# finetune


@documented(TrainingWords)
def finetune(
    model: Any,
    data: Any,
    output: PathLike | None = None,
    *,
    measure: bool = True,
    force: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
    progress: Progress | bool | None = None,
    **training: Unpack[TrainingWords],
) -> Result:
    """Goes on training a model that already carries regularizers.

    Args:
        model: a path, or a `keras.Model`, of which a copy is trained.
        data, progress: as in `apply`.
        **training: how to train:
            {words}
        custom_objects, unsafe_lambda: as in `apply`.
        output: from a path, None writes `name-tuned` beside the input.
    """
    _check_effect(training)
    settings = settings_of(
        training, has_data=data is not None, others=finetune.__kwdefaults__ or ()
    )
    job = _job(data, settings, progress)
    if job is None:
        raise UsageError("finetune needs data")
    known = custom_objects_of(custom_objects)
    is_file = isinstance(model, (str, os.PathLike))
    with job.on_devices():
        with opened(model) as source:
            target = _target(model, output, "finetune", source.store, force)
            job.check_log(model, target)
            surveyed = survey(source.store)
            planned = plan_inspect(surveyed)
            report = make_report("finetune", source, surveyed, planned, with_figures=measure)
            if is_file:
                with temporary_copy(source, source.store.root) as copy:
                    live, notes = load_compiled(
                        copy, known, unsafe_lambda=unsafe_lambda, shown=Path(model)
                    )
            else:
                from orthwrap.stores.live import rebuild

                live, notes = rebuild(source.store, ())
        if not any(r.carries for r in report.layers):
            notes = (*notes, "no kernel carries an orthwrap regularizer: use apply to attach one")
        report = noted(report, notes)
        report, outcome = job.train(live, job.read(live), report, with_figures=measure)
        return _ended(live, report, outcome, target, job)


# strip


def strip(
    model: Any,
    output: PathLike | None = None,
    *,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
) -> Result:
    """Takes out orthwrap's regularizers and gives back what was there before them.

    Args:
        model: a path, or a `keras.Model`, of which a plain copy is made unless `in_place`.
        output: from a path, None writes `name-plain` beside the input.
        force: an existing output may be replaced (never the input).
        in_place: change the live model itself.
        dry_run: report, write nothing.
        custom_objects, unsafe_lambda: as in `apply`, where the format is converted too; and for
            a live model's regularizers that are given back.
    """
    known = custom_objects_of(custom_objects)
    is_file = isinstance(model, (str, os.PathLike))
    if is_file:
        _refuse_in_place(in_place)
    with opened(model, upgrade=False) as source:
        store = source.store
        target = _target(model, output, "strip", store, force, dry_run)
        surveyed = survey(store)
        planned = plan_strip(surveyed)
        report = make_report("strip", source, surveyed, planned, with_figures=False)
        if dry_run:
            return Result(None, None, report)
        if not is_file:
            changed, notes = changed_model(store, planned, known, in_place=in_place)
            return _saved(changed, noted(report, notes), target)
        assert target is not None  # a path always has an output beside it
        root = edit(store.root, planned.edits)
        report = noted(report, _still_needs(root))
        if format_of(target) == store.format:
            write_copy(source, root, target, Path(model))
            return Result(None, target, replace(report, output=str(target)))
        with temporary_copy(source, root) as copy:
            live, notes = load_compiled(copy, known, unsafe_lambda=unsafe_lambda, shown=Path(model))
    return _saved(live, noted(report, notes), target)


# upgrade


def upgrade(
    model: PathLike,
    output: PathLike | None = None,
    *,
    force: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
) -> Result:
    """Brings an old file to Keras 3, and does nothing else.

    Args:
        model: a `.h5`, `.hdf5` or `.keras` file, or a SavedModel folder.
        output: None writes `name-keras3` beside the input, a `.keras` for a SavedModel. Where
            there is nothing to do, the output is a copy.
        force: an existing output may be replaced (never the input).
        custom_objects, unsafe_lambda: as in `apply`, where the format is converted too.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ValueFault("upgrade takes the path of a file: a live model is of Keras 3 already")
    known = custom_objects_of(custom_objects)
    path = Path(model)
    with opened(path) as source:
        store = source.store
        target = _target(path, output, "upgrade", store, force)
        surveyed = survey(store)
        report = make_report(
            "upgrade", source, surveyed, plan_inspect(surveyed), with_figures=False
        )
        report = noted(report, (*_still_needs(store.root), *_still_holds(store.root)))
        if format_of(target) == store.format:
            if store.path.is_dir():
                write_copy(source, store.root, target, path)
            else:
                with replacing(target, like=path) as sibling:
                    shutil.copyfile(store.path, sibling)
                    source.check_unchanged()
            return Result(None, target, replace(report, output=str(target)))
        with temporary_copy(source, store.root) as copy:
            live, notes = load_compiled(copy, known, unsafe_lambda=unsafe_lambda, shown=Path(model))
    return _saved(live, noted(report, notes), target)


def _still_needs(root: Any) -> tuple[str, ...]:
    """A note where even without regularizers Keras cannot load the file alone."""
    names = ours_within(root)
    if not names:
        return ()
    return (
        f"it still needs `import orthwrap` to load, for {', '.join(sorted(names))}, which Keras 3 "
        "does not have",
    )


def _still_holds(root: Any) -> tuple[str, ...]:
    """A note where Keras runs code of the file to load it."""
    layers = code_in(root)
    if not layers:
        return ()
    return (
        f"{listed(layers)}: code that the file keeps, which Keras runs with safe_mode=False alone",
    )


# compare


def compare(
    before: Any, after: Any, *, measure: bool = True, custom_objects: CustomObjects | None = None
) -> CompareReport:
    """Two models, kernel by kernel: figures, weights, regularizers.

    Args:
        before, after: paths or `keras.Model`s. Kernels are joined by layer path and name.
        measure: False skips the figures.
        custom_objects: as in `inspect`.
    """
    custom_objects_of(custom_objects)
    with opened(before) as first, opened(after) as second:
        here, there = (kernels_of(side.store) for side in (first, second))
        rows = tuple(
            compare_kernel(key, here.get(key), there.get(key), measure)
            for key in dict.fromkeys((*here, *there))
        )
        for side in (first, second):
            side.check_unchanged()
        return CompareReport(first.store.record, second.store.record, rows, __version__)


# Parts


def _many(value: Any) -> tuple[Any, ...]:
    """One pattern or several, as several."""
    if value is None:
        return ()
    if isinstance(value, str) or callable(value):
        return (value,)
    return tuple(value) if isinstance(value, Iterable) else (value,)


def _refuse_in_place(in_place: bool) -> None:
    if in_place:
        raise UsageError("in_place changes a live model; a file is never changed: leave it out")


@overload
def _target(
    model: PathLike,
    output: PathLike | None,
    command: str,
    store: Any,
    force: bool,
    dry_run: bool = False,
) -> Path: ...


@overload
def _target(
    model: Any,
    output: PathLike | None,
    command: str,
    store: Any,
    force: bool,
    dry_run: bool = False,
) -> Path | None: ...


def _target(
    model: Any,
    output: PathLike | None,
    command: str,
    store: Any,
    force: bool,
    dry_run: bool = False,
) -> Path | None:
    """Where a verb writes, checked before anything is done; None for a model without an output."""
    source = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if source is None and output is None:
        return None
    target = output_for(source or Path(), output, command, store.format)
    if source is None or not dry_run:
        check_output(target, source, force or dry_run)
    return target


def _saved(model: Any, report: Report, target: Path | None) -> Result:
    if target is not None:
        save_model(model, target)
        report = replace(report, output=str(target))
    return Result(model, target, report)


def _ended(model: Any, report: Report, outcome: Outcome, target: Path | None, job: Job) -> Result:
    """The trained model, saved; where the run was cut short, saved where it harms nothing."""
    if not job.processes.writes:
        target = None
    if not (outcome.fault or outcome.interrupted):
        with job.off_devices():
            return replace(_saved(model, report, target), process=job.processes.index)
    folder = job.session.settings.checkpoint_dir
    if outcome.interrupted and folder is not None:
        raise Interrupted(
            f"interrupted {outcome.place}: go on with the same command and --resume, which finds "
            f"its checkpoint in {folder}"
        )
    what = outcome.fault or f"interrupted {outcome.place}"
    advice = f"; {outcome.advice}" if outcome.advice else ""
    as_of = "as it was then" if outcome.kept is None else f"as of epoch {outcome.kept}"
    if outcome.fault and not outcome.kept:
        raise OrthwrapError(f"{what}: nothing was saved{advice}")
    if target is None:
        stopped = f"{what}: the error's `model` is the model {as_of}{advice}"
    else:
        aside = target.with_name(f"{target.name}.interrupted") if target.exists() else target
        with job.off_devices():
            save_model(model, aside, like=target)
        stopped = f"{what}; {aside} holds the model {as_of}{advice}"
    error = Interrupted(stopped) if outcome.interrupted else OrthwrapError(stopped)
    error.model = model
    raise error


def _check_effect(
    training: Mapping[str, Any], *, auto: bool = False, schedule: bool = False
) -> None:
    """UsageError for a word that says how something is done that is not done at all."""
    schedule = schedule or training.get("schedule") is not None
    for words, is_done, what in (
        (("rho", "rho_over"), auto, "factor auto"),
        (("schedule_by",), schedule, "a schedule"),
        (("temperature",), bool(training.get("distill")), "distill"),
    ):
        for word in words:
            if training.get(word) is not None and not is_done:
                raise UsageError(f"{spoken(word)} is about {what}: ask for that, or leave it out")


def _job(data: Any, settings: Settings | None, progress: Progress | bool | None) -> Job | None:
    if settings is None:
        return None
    from orthwrap.training.job import Job

    shown = None if isinstance(progress, bool) else progress
    if progress is True:
        from orthwrap.render.progress import TrainingProgress
        from orthwrap.render.terminal import console

        shown = TrainingProgress(console(sys.stdout))

    return Job.of(data, settings, shown)
