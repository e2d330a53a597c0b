"""Fine-tuning a model that carries regularizers: compile, fit, and figures before and after."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.constraints import OrthogonalityConstraint
from orthwrap.data import Data
from orthwrap.errors import OrthwrapError, is_own, raised_at
from orthwrap.live.compiled import inner_of
from orthwrap.live.live_store import LiveStore, regularizers_of
from orthwrap.live.rebuild import rebuild
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.report.record import Training
from orthwrap.report.verdict import Verdict, verdict_on
from orthwrap.rules.aims import Aim
from orthwrap.rules.schedules import Schedule
from orthwrap.stores.replacing import TextOutput
from orthwrap.training.checks import (
    check_figures,
    check_numbers,
    check_objects,
    label_fault,
    warnings_before,
)
from orthwrap.training.factors.auto import (
    MOVED,
    Chosen,
    Place,
    Resolved,
    apply_resolved,
    chosen_of,
    resolve,
    resolved_in_words,
)
from orthwrap.training.factors.schedule_callback import FactorSchedule, carried
from orthwrap.training.goal.compiling import (
    choose_optimizer,
    compile_model,
    executions_of,
    learning_rate,
    loss_names,
    optimizer_name,
    settle_optimizer,
    settle_steps,
)
from orthwrap.training.goal.distillation import (
    agreement,
    distillation_losses,
    imitating,
    kinds_of,
    note_on_batch_statistics,
)
from orthwrap.training.goal.freezing import batchnorm_momentum, freeze
from orthwrap.training.goal.inputs_outputs import outputs_of
from orthwrap.training.goal.labels import fit_labels
from orthwrap.training.goal.pursuit import Pursuit
from orthwrap.training.goal.pursuits import (
    aim_of,
    is_pulled,
    pursuit_of,
    told_of_pursuit,
    trained_samples,
)
from orthwrap.training.loop.checkpoints import (
    CheckpointFolder,
    State,
    check_same_run,
    checksum,
    fingerprint,
)
from orthwrap.training.loop.exact import exact_penalties, with_exact
from orthwrap.training.loop.interrupts import Interrupts
from orthwrap.training.loop.logs import check_board, open_log
from orthwrap.training.loop.losses import split_losses, without_unused
from orthwrap.training.loop.monitor import directions_known
from orthwrap.training.loop.watch import Outcome, Run, averages, is_ours, regularizers_in
from orthwrap.training.pull.kernels import driven_kernels
from orthwrap.training.settings import Settings
from orthwrap.training.where.devices import whole_batches
from orthwrap.training.where.processes import Processes

_BATCHES = 4  # that are looked at before training, such as for the task's gradient


class Progress(Protocol):
    """Somebody who shows how training goes."""

    def start(self, choices: tuple[str, ...], epochs: int, steps: int | None) -> None: ...

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, logs: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Session:
    """A run that may begin: what was asked for, and where it goes on from.

    Attributes:
        settings: as they were given.
        seed: of the order of samples; drawn where none was given.
        is_seeded: whether all that is random follows from the seed.
        folder: of the checkpoints; None for none.
        log: where a line for each epoch goes; None for nowhere.
        state: what the last checkpoint says; None at the beginning.
        processes: that train together.
    """

    settings: Settings
    seed: int
    is_seeded: bool
    folder: CheckpointFolder | None
    log: TextOutput | None
    state: State | None
    processes: Processes


def begin(settings: Settings, processes: Processes) -> Session:
    """Checks where the run writes, before anything is read or trained.

    Raises:
        ValueFault: a loss, optimizer, metric, callback or schedule that is none.
        FileFault: a log or a folder that cannot be written, or checkpoints of another run.
    """
    check_objects(settings)
    log = open_log(settings.log)
    check_board(settings.tensorboard)
    folder = None if settings.checkpoint_dir is None else CheckpointFolder(settings.checkpoint_dir)
    state = None if folder is None else folder.open(resume=settings.resume)
    seed = settings.seed
    if seed is None:
        seed = random.getrandbits(31) if state is None else state.seed
    is_seeded = settings.seed is not None or folder is not None or settings.has_others
    return Session(settings, seed, is_seeded, folder, log, state, processes)


@dataclass(frozen=True)
class Finetuned:
    """What came of a run.

    Attributes:
        training: for the report.
        warnings: a line each, for the report; progress has shown them before the first step.
        outcome: how far it came. Where it came to no good end, the model is as the last good
            epoch left it; `outcome.kept` is 0 where there is none.
        chosen, resolved: the regularizers whose factors were found, and the factors.
    """

    training: Training
    outcome: Outcome
    chosen: tuple[Chosen, ...]
    resolved: tuple[Resolved, ...]
    warnings: tuple[str, ...] = ()


def finetune(
    model: Any,
    data: Data,
    session: Session,
    progress: Progress | None = None,
    auto: Sequence[Place] = (),
    schedules: Sequence[tuple[Any, Sequence[Place]]] = (),
    pulls: Sequence[tuple[float, Sequence[Place]]] = (),
    warned: Sequence[str] = (),
) -> Finetuned:
    """Trains `model` as it is, regularizers and all.

    Args:
        data: checked against the model.
        session: from `begin`.
        progress: who shows it, or None.
        auto: the regularizers whose factors are found first.
        schedules: each with the regularizers whose factors it moves; those of no schedule follow
            the one in the settings.
        pulls: rates, each with the regularizers whose kernels it pulls; those of no rate follow
            the settings.
        warned: lines that the report warns of already, to be shown before the first step.

    Raises:
        ValueFault: labels that fit no loss, or lie outside the classes; numbers that are none;
            a figure to monitor that there is not.
        OrthwrapError: the model's loss or metrics fail.
    """
    settings = session.settings
    if session.is_seeded:
        keras.utils.set_random_seed(session.seed)
        _reseed(model, session.seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_line_errors(model, data, session))
        made = _prepared(stack, model, data, session)
        chosen = chosen_of(model, auto) if auto else ()
        begun = _begun(stack, model, made, session, chosen, schedules, pulls, progress)
        state, run, pursuit = begun.state, begun.run, begun.pursuit
        moving = _schedules(model, made.data, session, state, schedules)
        if state.epoch >= settings.epochs:
            for schedule in moving:
                schedule.end(model)
        if progress is not None:
            lines = (*begun.choices, *(f"warning: {line}" for line in (*warned, *begun.found)))
            progress.start(lines, settings.epochs, made.data.steps(settings.batch_size))
        _run_to_its_end(model, made.data, session, state, run, moving, pursuit, progress)
        after = _figures(model, made.data, settings, made.kinds)
    out = run.outcome
    if out.fault and made.suspect:
        out.advice = made.suspect
    training = _as_reported(made.data, session, begun, after)
    return Finetuned(training, out, chosen, begun.resolved, begun.found)


@dataclass(frozen=True)
class _Prepared:
    """What a run has to know of its model, once that is ready to be trained.

    Attributes:
        data: with labels as the loss takes them.
        kinds: of the outputs that are distilled; () where none are.
        choices, found: lines on what was chosen, and what is to be warned of.
        suspect: what may be at fault where numbers become none; "" where nothing looks so.
    """

    data: Data
    kinds: tuple[str, ...]
    choices: tuple[str, ...]
    found: tuple[str, ...]
    suspect: str


def _prepared(stack: contextlib.ExitStack, model: Any, data: Data, session: Session) -> _Prepared:
    """Freezes, compiles and settles the optimizer of a model; what is undone goes on the stack."""
    settings = session.settings
    choices = freeze(model, settings)
    stack.enter_context(batchnorm_momentum(model, settings.batchnorm_momentum))
    suspect = check_numbers(model, data, settings.devices)
    kinds: tuple[str, ...] = ()
    if settings.distill:
        kinds = kinds_of(model)
        described = data.describe()  # whose labels will be the teacher's outputs
        data, why = _distilled(stack, model, data, settings)
        if settings.devices in (None, 1) and not session.processes.are_several:
            norms = note_on_batch_statistics(model, _some_batches(data, session), kinds)
            why += (norms,) if norms else ()
    else:
        why = compile_model(model, data, settings)
        data, notes = fit_labels(model, data)
        why += notes
        described = data.describe()
    found = settle_optimizer(model, settings)
    choices += (f"data: {described}", *why, *settle_steps(model, data.steps(settings.batch_size)))
    if settings.devices not in (None, 1):
        among = f" of {session.processes.count} processes"
        where = among if session.processes.are_several else ""
        choices += (f"on {settings.devices} devices{where}, each with its share of a batch",)
    if averages(model):
        choices += ("weights: at the end their averages over the steps, as use_ema asks",)
    return _Prepared(data, kinds, choices, found, suspect)


@dataclass(frozen=True)
class _Begun:
    """A run before its first step.

    Attributes:
        state: where it begins.
        run: the callback that watches it.
        pursuit: of its goal; None where nothing is driven.
        before: losses and metrics as they are now.
        resolved: the factors that were found.
        choices, found: lines on what was chosen, and what is to be warned of.
    """

    state: State
    run: Run
    pursuit: Pursuit | None
    before: Mapping[str, float]
    resolved: tuple[Resolved, ...]
    choices: tuple[str, ...]
    found: tuple[str, ...]


def _begun(
    stack: contextlib.ExitStack,
    model: Any,
    made: _Prepared,
    session: Session,
    chosen: Sequence[Chosen],
    schedules: Sequence[tuple[Any, Sequence[Place]]],
    pulls: Sequence[tuple[float, Sequence[Place]]],
    progress: Progress | None,
) -> _Begun:
    """Sets the factors, takes the first figures and goes back to the checkpoint there is."""
    settings, data = session.settings, made.data
    steps = data.steps(settings.batch_size)
    kernels = driven_kernels(model)
    aim = aim_of(model, kernels, settings)
    state, notes = _state_of(model, data, session, aim, schedules, pulls)
    resolved = _resolved(model, data, session, chosen)
    stack.enter_context(split_losses(model))
    interrupts = Interrupts()
    if not session.processes.are_several:  # the others would wait for the next step
        stack.enter_context(interrupts)
    before = _figures(model, data, settings, made.kinds)
    check_figures(model, data, before, settings)
    batches = _same_each_time(data, settings)
    trained = trained_samples(data, 4 * settings.batch_size)
    pursuit = pursuit_of(
        *(model, kernels, aim, batches, settings, steps, made.kinds, pulls, trained),
        is_split=data.is_split,
    )
    validation = _validation(model, data, settings)
    warmup = _warmup(settings, schedules, steps)
    places = (session.folder, session.log)
    run = Run(settings, state, steps, validation, *places, progress, interrupts, pursuit, warmup)
    run.set_model(model)
    stack.callback(_stop, pursuit)
    run.begin(before)
    if session.state is not None:
        run.restore()
    choices = (*made.choices, *notes, *resolved_in_words(resolved))
    choices += told_of_pursuit(model, pursuit, settings, steps)
    found = (
        *made.found,
        *_starts_afresh(session),
        *warnings_before(
            model, data, before, settings, pulled=is_pulled(pursuit), resolved=bool(resolved)
        ),
    )
    return _Begun(state, run, pursuit, before, resolved, choices, found)


def _state_of(
    model: Any,
    data: Data,
    session: Session,
    aim: Any,
    schedules: Sequence[tuple[Any, Sequence[Place]]],
    pulls: Sequence[tuple[float, Sequence[Place]]],
) -> tuple[State, tuple[str, ...]]:
    """Where the run begins, a checkpoint's place or the start; and lines on that."""
    notes: tuple[str, ...] = ()
    words: dict[str, Any] = {}
    if session.folder is not None:
        words = _words(model, data, session, aim, schedules, pulls)
        if not session.folder.is_locked:
            notes = ("checkpoints: no locks here, so see to it that no other run writes there",)
    state = session.state or State(0, 0, session.seed, words)
    if session.state is not None and session.folder is not None:
        steps = data.steps(session.settings.batch_size)
        check_same_run(state, words, session.folder.path, steps)
        notes += (f"goes on {state.place}",)
    return state, notes


def _starts_afresh(session: Session) -> tuple[str, ...]:
    """A warning of what a checkpoint does not hold."""
    if session.state is None or not session.settings.callbacks:
        return ()
    return ("callbacks start afresh: Keras has no state of theirs to keep",)


def _resolved(
    model: Any, data: Data, session: Session, chosen: Sequence[Any]
) -> tuple[Resolved, ...]:
    """Finds factors from the gradients of task and penalty, and sets them."""
    if not chosen:
        return ()
    settings = session.settings
    first = _some_batches(data, session)
    moved = MOVED if settings.distill else 0.0  # it begins as its own teacher
    resolved = resolve(model, first, chosen, settings.rho, settings.rho_over, moved=moved)
    apply_resolved(chosen, resolved)
    return resolved


def _run_to_its_end(
    model: Any,
    data: Data,
    session: Session,
    state: State,
    run: Run,
    moving: Sequence[Any],
    pursuit: Pursuit | None,
    progress: Progress | None,
) -> None:
    """Fits the model; whatever ends that, nothing of the run stays on it."""
    settings = session.settings
    try:
        if pursuit is None or not pursuit.progress.ended:
            with directions_known(settings.callbacks):
                _fit(model, data, session, state, [*moving, run, *settings.callbacks])
    finally:
        for schedule in moving:
            schedule.stop()
        _stop(pursuit)
        if progress is not None:
            progress.stop()
    run.finish()


def _as_reported(
    data: Data, session: Session, begun: _Begun, after: Mapping[str, float]
) -> Training:
    """What the report says of the run."""
    out, pursuit, before = begun.run.outcome, begun.pursuit, begun.before
    return Training(
        epochs=out.epoch,
        factors={},
        history={k: tuple(v) for k, v in out.history.items()},
        metrics_before=before,
        metrics_after=after,
        choices=begun.choices,
        kept_epoch=out.kept or 0,
        held_out=data.held_out is not None,
        seed=session.seed if session.is_seeded else None,
        class_names=data.class_names,
        goal=None if pursuit is None else pursuit.progress,
        keep=begun.run.keep,
        verdict=_verdict(pursuit, out, before, after),
    )


def _fit(model: Any, data: Data, session: Session, state: State, callbacks: Sequence[Any]) -> None:
    """Keras's `fit` from where the run stands to its last epoch."""
    settings = session.settings
    steps = data.steps(settings.batch_size)
    parts = [(state.epoch, 0, settings.epochs)]
    if state.step:  # the rest of that epoch is shorter than the others
        parts = [(state.epoch, state.step, state.epoch + 1), (state.epoch + 1, 0, settings.epochs)]
    model.stop_training = False
    for epoch, step, end in parts:
        if epoch < end and not model.stop_training:
            left = None if steps is None else steps - step
            with executions_of(model, left):
                model.fit(
                    data.training(settings.batch_size, session.seed, epoch, step, end),
                    initial_epoch=epoch,
                    epochs=end,
                    steps_per_epoch=left,
                    callbacks=list(callbacks),
                    shuffle=False,
                    verbose=0,
                )


def _same_each_time(data: Data, settings: Settings) -> Callable[[], Any] | None:
    """The samples that the figures are of; None where a stream's order may be another each time."""
    if data.held_out is None and not data.are_kept[0]:
        return None
    return lambda: data.evaluation(4 * settings.batch_size)  # without gradients there is room


def _verdict(
    pursuit: Pursuit | None, out: Outcome, before: Mapping[str, float], after: Mapping[str, float]
) -> Verdict | None:
    """None where no whole epoch is kept."""
    if not out.kept:
        return None
    return verdict_on(None if pursuit is None else pursuit.progress, out.kept, before, after)


def _stop(pursuit: Pursuit | None) -> None:
    if pursuit is not None:
        pursuit.stop()


def _distilled(
    stack: contextlib.ExitStack, model: Any, data: Data, settings: Settings
) -> tuple[Data, tuple[str, ...]]:
    """The data with the model's own outputs as labels, and the model compiled to learn them."""
    losses, why = distillation_losses(model, settings.temperature)
    # Where the outputs are asked for while the model is trained, a copy of it gives them.
    teacher = model if all(data.are_kept) else rebuild(LiveStore(model), ())[0]
    data = data.relabelled(outputs_of(teacher), settings.batch_size)
    optimizer, which = choose_optimizer(model, settings)
    stack.enter_context(imitating(model, losses, optimizer))
    return data, (*why, which)


def _schedules(
    model: Any,
    data: Data,
    session: Session,
    state: State,
    own: Sequence[tuple[Any, Sequence[Place]]],
) -> list[FactorSchedule]:
    """The callbacks that move the factors: those of rules, and the settings' for all others."""
    settings = session.settings
    made = []
    taken: set[int] = set()
    for schedule, places in own:
        chosen = [r for slot, r in carried(model) if (slot.layer.path, slot.name) in places]
        taken |= {id(r) for r in chosen}
        made.append(FactorSchedule.of(chosen, schedule, by=settings.schedule_by))
    if settings.schedule is not None:
        rest = [r for r in regularizers_in(model) if id(r) not in taken]
        if rest or not taken:
            made.append(FactorSchedule.of(rest, settings.schedule, by=settings.schedule_by))
    for schedule in made:
        schedule.resume_at(state.step, data.steps(settings.batch_size), settings.epochs)
    return made


def _warmup(
    settings: Settings, own: Sequence[tuple[Any, Sequence[Place]]], steps: int | None
) -> int:
    """The epochs that begin while a schedule still warms up; 0 where that is not known."""
    longest = 0.0
    for schedule in (settings.schedule, *(schedule for schedule, _ in own)):
        known = Schedule.parse(schedule) if isinstance(schedule, str) else schedule
        if isinstance(known, Schedule):
            longest = max(longest, known.warmup)
    if settings.schedule_by == "step":
        longest = 0.0 if steps is None else longest / steps
    return math.ceil(longest)


def _some_batches(data: Data, session: Session) -> list[Any]:
    """The first batches that the training will see."""
    x = data.training(session.settings.batch_size, session.seed)
    if isinstance(x, keras.utils.PyDataset):
        return [x[i] for i in range(min(_BATCHES, len(x)))]
    return list(itertools.islice(iter(x), _BATCHES))


def _validation(
    model: Any, data: Data, settings: Settings
) -> Callable[[], Mapping[str, float]] | None:
    flow = data.validation(settings.batch_size)
    return None if flow is None else lambda: _evaluate(model, flow, data)


def _figures(
    model: Any, data: Data, settings: Settings, kinds: tuple[str, ...]
) -> dict[str, float]:
    """Losses and metrics where the model stands; distilled, how far it agrees with the teacher."""
    figures = _evaluate(model, data.evaluation(settings.batch_size), data)
    if kinds:
        call = outputs_of(model)
        pairs = [(keras.tree.flatten(y), call(x)) for x, y in data.evaluation(settings.batch_size)]
        teacher, student = (
            [np.concatenate([np.asarray(a) for a in part]) for part in zip(*side, strict=True)]
            for side in zip(*pairs, strict=True)
        )
        figures["agreement"] = agreement(teacher, student, kinds)
    return figures


def _evaluate(model: Any, flow: Any, data: Data) -> dict[str, float]:
    with whole_batches((data.held_out or data.train).count), exact_penalties(model) as added:
        logs = model.evaluate(flow, verbose=0, return_dict=True)
    figures = {k: float(v) for k, v in logs.items() if np.ndim(v) == 0}
    return without_unused(model, with_exact(figures, added))


def _words(
    model: Any,
    data: Data,
    session: Session,
    aim: Aim | None,
    schedules: Sequence[tuple[Any, Sequence[Place]]],
    pulls: Sequence[tuple[float, Sequence[Place]]],
) -> dict[str, Any]:
    """What may not change from one part of a run to the next."""
    settings = session.settings
    weights = [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.weights]
    ids = {id(v) for v in model.trainable_variables}
    trained = [i for i, v in enumerate(model.weights) if id(v) in ids]
    held = [(i, r.attachment) for i, (_, r) in enumerate(regularizers_of(model)) if is_ours(r)]
    kinds = [(i, {**a.to_node()["config"], "factor": None}) for i, a in held]
    factors = [a.factor for _, a in held]
    names = ", ".join(sorted({a.name for _, a in held})) or "none"
    return {
        "model": fingerprint(weights),
        "data": data.describe(),
        "seed": session.seed,
        "batch size": settings.batch_size,
        "samples": _first_samples(data, settings.batch_size) if data.repeatable else None,
        "optimizer": optimizer_name(model.optimizer),
        "learning rate": _rate(model.optimizer),
        "loss": loss_names(model.loss),
        "trained weights": f"{len(trained)} ({checksum(trained)})",
        "regularizers": f"{names} ({checksum(kinds)})",
        "factors": f"{min(factors):g} to {max(factors):g} ({checksum(factors)})" if held else None,
        "constraints": _constraints(model),
        "rho": [settings.rho, settings.rho_over],
        "goal": [str(aim), settings.task_margin, settings.pull, list(pulls)],
        "schedules": [_in_words(s) for s in (settings.schedule, *(s for s, _ in schedules)) if s],
    }


def _constraints(model: Any) -> str | None:
    """What holds its weights after each step, the user's own too; None where nothing does."""
    found = [(i, v.constraint) for i, v in enumerate(model.weights) if v.constraint is not None]
    if not found:
        return None
    # A function has no config, and an object in one may print its address.
    configs: list[Any] = [
        (i, type(c).__name__, getattr(c, "__name__", ""), getattr(c, "get_config", dict)())
        for i, c in found
    ]
    names = {
        str(c.constrained) if isinstance(c, OrthogonalityConstraint) else type(c).__name__
        for _, c in found
    }
    text = json.dumps(configs, default=lambda value: type(value).__name__)
    return f"{', '.join(sorted(names))} ({checksum(text)})"


def _first_samples(data: Data, batch_size: int) -> str:
    x = keras.tree.flatten(data.first_inputs(batch_size))
    return fingerprint([np.asarray(a) for a in (*x, *data.labels)])


def _rate(optimizer: Any) -> Any:
    rate = learning_rate(optimizer)
    own = keras_inside.rate_of(inner_of(optimizer))
    if isinstance(own, keras.optimizers.schedules.LearningRateSchedule):
        return f"{rate} ({checksum(own.get_config())})"
    return rate


def _in_words(schedule: Any) -> str:
    if isinstance(schedule, (str, Schedule)):
        return str(schedule)
    return str(getattr(schedule, "__name__", type(schedule).__name__))


def _reseed(model: Any, seed: int) -> None:
    """What draws at random in the model was made before the seed was set."""
    states = (v for v in model.non_trainable_variables if v.name == "seed_generator_state")
    for i, state in enumerate(states):
        state.assign(np.asarray([(seed + i) % 2**31, 0], state.dtype))
    held = (regularizer for _, regularizer in regularizers_of(model))
    drawing = (r for r in held if isinstance(r, OrthogonalityRegularizer))
    for i, regularizer in enumerate(drawing):
        regularizer.reseed(seed + i)


@contextlib.contextmanager
def _one_line_errors(model: Any, data: Data, session: Session) -> Iterator[None]:
    """The data, the model's own loss and its metrics may be anyone's, and fail in any way.

    What orthwrap's own lines raise goes on as it is, and so does a package that is missing.
    """
    try:
        with warnings.catch_warnings():
            # Keras warns of sizes and the like on paths the user did not choose.
            warnings.simplefilter("ignore")
            yield
    except (OrthwrapError, MemoryError, ImportError):
        raise
    except Exception as e:
        if is_own(e):
            raise
        raise data.explain(e) or _training_failed(e, model, data, session) from e


def _training_failed(error: Exception, model: Any, data: Data, session: Session) -> OrthwrapError:
    """The error in its own words, and what loss and metrics show that are tried alone."""
    fault = ""
    with contextlib.suppress(Exception):  # what is tried here may fail as the training did
        fault = label_fault(model, _some_batches(data, session)[0])
    processes = session.processes
    if processes.are_several and not fault:
        return OrthwrapError(
            f"training failed in process {processes.index} of {processes.count} ({_gist(error)}): "
            "where another one failed or was interrupted first, its own last line says why"
        )
    return OrthwrapError(
        f"training failed ({_gist(error)}; raised at {raised_at(error)})"
        + (f": {fault}" if fault else "; --debug shows the calls")
    )


def _gist(error: BaseException) -> str:
    """The line of an error that says what is wrong; TensorFlow puts others before it."""
    noise = ("Graph execution error", "Detected at", "<stack traces", "File ", "[[{{")
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(noise)]
    return f"{type(error).__name__}: {telling[0]}" if telling else type(error).__name__
