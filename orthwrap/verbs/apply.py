"""apply: attaches regularizers to the kernels that match; with data, fine-tunes as well."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from orthwrap.errors import Faults, UsageError, ValueFault
from orthwrap.model_config.tfmot import check_wrappers
from orthwrap.model_config.tree import edit
from orthwrap.opening import Opened, opened
from orthwrap.penalties.attachment import Attachment
from orthwrap.plan.decide import plan
from orthwrap.plan.decision import Decision, Plan
from orthwrap.plan.sampled import check_samples
from orthwrap.plan.templates import check_foreign, check_references, templates_of
from orthwrap.report.make import make_report, with_notes
from orthwrap.report.record import Report
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.rules.file import read_rules
from orthwrap.rules.patterns import several
from orthwrap.rules.rule import NONE, AttachWords, Rule
from orthwrap.rules.words import documented, words_of
from orthwrap.stores.outputs import PathLike, output_for
from orthwrap.surgery import (
    changed_model,
    check_kept,
    is_in_doubt,
    is_same_format,
    load_planned,
    output_shapes,
    output_shapes_in,
    save,
    write_made,
)
from orthwrap.survey import Survey, survey
from orthwrap.text import listed
from orthwrap.training.settings import DEFAULT_GOAL, Settings, TrainingWords, settings_of
from orthwrap.verbs.endings import Result, finished, trained
from orthwrap.verbs.measuring import check_operator, measuring_of
from orthwrap.verbs.places import check_target, refuse_in_place, target_of
from orthwrap.verbs.training_words import (
    job_of,
    pulled_twice,
    says_how_strong,
    without_effect,
)

if TYPE_CHECKING:
    from orthwrap.data import Data
    from orthwrap.training.fit import Progress
    from orthwrap.training.job import Job
    from orthwrap.training.loop.watch import Outcome


class ApplyWords(AttachWords, TrainingWords):
    """What `apply` may be told: what to attach, and how to train."""


@documented(AttachWords, TrainingWords)
def apply(
    model: Any,
    output: PathLike | None = None,
    *,
    weights: PathLike | None = None,
    rules: Rule | Sequence[Rule] | PathLike | None = None,
    measure: bool = True,
    operator: bool = False,
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
        weights: the file of weights that goes with a `model.json`, what `model.to_json()` gave.
        rules: several `Rule`s instead, or the path of a rules file; the first that matches wins.
        measure: False skips the figures.
        operator: as in `inspect`; after training too.
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
        progress: who shows the training, and how far the figures of the operators are: an object
            like `orthwrap.report.progress.TrainingProgress`. None and True take that one, on
            standard output; False shows nothing.
        **words: what to attach and how to train:
            {words}

    Returns:
        Result; its model is None where a file became a file without Keras.

    Raises:
        OrthwrapError: with one line that says what was expected, found, and to do.
    """
    is_file = isinstance(model, (str, os.PathLike))
    faults = Faults()
    faults.of(check_operator, operator, measure=measure)
    faults.of(refuse_in_place, in_place and is_file)
    known = faults.of(custom_objects_of, custom_objects)
    how = {"has_data": data is not None, "dry_run": dry_run, "in_place": in_place}
    said = faults.of(_said, rules, words, has_penalties=known is not None, **how)
    faults.raise_all()
    job = job_of(data, said.settings, progress)
    shown: Any = {"with_figures": measure, "with_operator": operator}
    report_on = functools.partial(make_report, "apply", **shown, measuring=measuring_of(progress))
    verb = _Apply(said, measure, report_on, job, known, unsafe_lambda, dry_run, weights)
    with contextlib.nullcontext() if job is None else job.on_devices():
        if is_file:
            return verb.on_file(Path(model), output, force=force, upgrade=upgrade)
        return verb.on_model(model, output, force=force, in_place=in_place)


@dataclass(frozen=True)
class _Said:
    """What the words say.

    Attributes:
        templates: of each rule.
        functions: what references in them stand for.
        settings: of training; None without data.
    """

    rules: tuple[Rule, ...]
    templates: Sequence[Attachment | None]
    functions: Mapping[str, Any]
    settings: Settings | None


def _said(
    rules: Any,
    words: Mapping[str, Any],
    *,
    has_data: bool,
    has_penalties: bool,
    dry_run: bool,
    in_place: bool,
) -> _Said:
    """All that the words say, checked.

    Args:
        has_penalties: whether those penalties are there that the user brings along.
    """
    attach = words_of(AttachWords)
    given = {k: v for k, v in words.items() if k in attach and v is not None}
    training = {k: v for k, v in words.items() if k not in attach}
    faults = Faults()
    found = faults.of(_rules_of, rules, given)
    others = (*attach, *(apply.__kwdefaults__ or ()))
    settings = faults.of(settings_of, training, has_data=has_data, others=others)
    made = None
    if found is not None:
        made = faults.of(templates_of, found) if has_penalties else None
        for why in _about_data(found, training, has_data=has_data):
            faults.add(UsageError(why))
        if settings is not None:
            how = {"dry_run": dry_run, "in_place": in_place}
            settings = faults.of(_settled, settings, training, found, **how)
    elif has_penalties and given.get("regularizer") not in (None, NONE):
        faults.of(templates_of, (Rule(regularizer=given["regularizer"]),))  # its name at least
    faults.raise_all()
    templates, functions = made or ((), {})
    return _Said(found, templates, functions, settings)


def _settled(
    settings: Settings,
    training: Mapping[str, Any],
    rules: Sequence[Rule],
    *,
    dry_run: bool,
    in_place: bool,
) -> Settings:
    """The settings in view of all else that was said."""
    if not says_how_strong(training, rules):
        settings = settings.replace(goal=DEFAULT_GOAL)
    if dry_run:  # which makes no folders
        settings = settings.replace(checkpoint_dir=None, resume=False, tensorboard=None)
    if in_place and settings.devices is not None:
        raise UsageError("devices share a copy of the model: leave in_place out")
    return settings


def _rules_of(rules: Any, given: Any) -> tuple[Rule, ...]:
    """The rules, or the one that the words say."""
    if rules is None:
        return (Rule(**given),)
    faults = Faults()
    if given:
        those = "it" if len(given) == 1 else "them"
        why = f"rules come instead of {listed([*given])}: put {those} into the rules"
        faults.add(UsageError(why))
    if isinstance(rules, (str, os.PathLike)):
        found = faults.of(read_rules, Path(rules))
    else:
        found = several(rules)
        if not found or not all(isinstance(rule, Rule) for rule in found):
            why = "rules must be one orthwrap.Rule or several, or the path of a rules file"
            faults.add(ValueFault(why))
    faults.raise_all()
    return tuple(found)


def _about_data(
    rules: Sequence[Rule], training: Mapping[str, Any], *, has_data: bool
) -> Iterator[str]:
    """What is wrong with what is about training, in view of the rules."""
    if has_data and all(rule.takes_out for rule in rules):
        yield "regularizer none attaches nothing to train with: leave data out"
    auto = any(rule.is_auto for rule in rules)
    schedule = any(rule.schedule is not None for rule in rules)
    if auto and not has_data:
        yield "factor auto needs data: give data, or a number like 1e-3"
    if schedule and not has_data:
        yield "a schedule is about training, which needs data"
    if any(rule.pull is not None for rule in rules) and not has_data:
        yield "a pull is about training, which needs data"
    yield from pulled_twice(training, rules)
    yield from without_effect(training, auto=auto, schedule=schedule)


@dataclass(frozen=True)
class _Apply:
    said: _Said
    measure: bool
    report_on: Callable[[Opened, Survey, Plan], Report]
    job: Job | None
    custom_objects: Mapping[str, Any]
    unsafe_lambda: bool
    dry_run: bool
    weights: PathLike | None = None

    def on_file(self, path: Path, output: PathLike | None, *, force: bool, upgrade: bool) -> Result:
        with opened(path, upgrade=upgrade, weights=self.weights) as source:
            store = source.store
            target = output_for(path, output, "apply", store.format)
            check_references(self.said.functions)
            by_keras = not self.dry_run and (
                self.job is not None or not is_same_format(source, target)
            )
            surveyed = survey(store, is_tried=by_keras)
            check_wrappers(surveyed.layers)
            planned = plan(surveyed, self.said.rules, self.said.templates)
            how = (self.custom_objects, self.unsafe_lambda)
            check_foreign(planned, outputs=lambda: output_shapes_in(source, *how))
            if not self.dry_run:
                check_target(target, path, force, self.weights)
            if self.job is not None:
                self.job.check_log(path, target)
            root = edit(store.root, planned.edits)
            live = None
            notes: tuple[str, ...] = ()
            if by_keras:
                live, planned, notes = load_planned(source, planned, root, *how)
                check_kept(planned)
                check_samples(planned, lambda: output_shapes(live))
            report = with_notes(self.report_on(source, surveyed, planned), notes)
            if self.dry_run:
                return finished(None, report, None)
            if self.job is None:
                write_made(source, root, live, target)
                return finished(live, report, target)
        report, outcome = self._train(self.job, live, self.job.read(live), report, planned)
        return trained(self.job, live, report, outcome, target)

    def on_model(
        self, model: Any, output: PathLike | None, *, force: bool, in_place: bool
    ) -> Result:
        with opened(model, weights=self.weights) as source:
            surveyed = survey(source.store)
            check_wrappers(surveyed.layers)
            planned = plan(surveyed, self.said.rules, self.said.templates)
            check_foreign(planned, self.said.functions, lambda: output_shapes(model))
            check_samples(planned, lambda: output_shapes(model))
            target = target_of(model, output, "apply", source.store, force, self.dry_run)
            if target is not None:
                check_references(self.said.functions)
            if self.job is not None:
                self.job.check_log(None, target)
            # Data that does not fit is found before anything is done.
            data = None if self.job is None else self.job.read(model)
            make = functools.partial(self.report_on, source, surveyed)
            known = {**self.custom_objects, **self.said.functions}
            saved = output is not None
            if self.dry_run:
                notes: tuple[str, ...] = ()
                if not in_place and is_in_doubt(model, planned):
                    store = source.store
                    _, planned, notes = changed_model(
                        store, planned, known, in_place=False, saved=saved
                    )
                report = make(planned)
                return finished(None, with_notes(report, notes), None)
            outcome = None
            with _restored_on_error(model) if in_place else contextlib.nullcontext():
                changed, planned, notes = changed_model(
                    source.store, planned, known, in_place=in_place, saved=saved
                )
                report = with_notes(make(planned), notes)
                if self.job is not None and data is not None:
                    report, outcome = self._train(self.job, changed, data, report, planned)
        if self.job is not None and outcome is not None:
            return trained(self.job, changed, report, outcome, target)
        save(changed, target)
        return finished(changed, report, target)

    def _train(
        self, job: Job, model: Any, data: Data, report: Report, planned: Plan
    ) -> tuple[Report, Outcome]:
        return job.train(
            model,
            data,
            report,
            auto=[_place(d) for d in planned.decisions if d.auto],
            schedules=_said_of(planned, "schedule"),
            pulls=_said_of(planned, "pull"),
            with_figures=self.measure,
        )


def _restored_on_error(model: Any) -> contextlib.AbstractContextManager[None]:
    from orthwrap.live.in_place import restored_on_error

    return restored_on_error(model)


def _said_of(planned: Plan, word: str) -> list[tuple[Any, list[tuple[str, str]]]]:
    """What the rules say of training in a word, each with the slots it is for."""
    found: list[tuple[Any, list[tuple[str, str]]]] = []
    for decision in planned.decisions:
        said = getattr(decision, word)
        if said is None:
            continue
        places = next((p for s, p in found if s == said), None)
        if places is None:
            places = []
            found.append((said, places))
        places.append(_place(decision))
    return found


def _place(decision: Decision) -> tuple[str, str]:
    return decision.slot.layer.path, decision.slot.name
