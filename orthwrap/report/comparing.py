"""One kernel in two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from orthwrap.model_config.tree import is_ours
from orthwrap.penalties.attachment import Attachment, describe
from orthwrap.penalties.constrained import Constrained, is_our_constraint
from orthwrap.plan.as_it_is import plan_inspect
from orthwrap.plan.decision import Decision
from orthwrap.report.make import constraint_record, figures, regularizer_record
from orthwrap.report.measure import relative_change
from orthwrap.report.record import Comparison
from orthwrap.stores.store import Store, WeightRef
from orthwrap.survey import Kernel, survey

Key = tuple[str, str, str]  # path, slot, kernel
T = TypeVar("T")


def kernels_of(store: Store) -> dict[Key, tuple[Kernel, Decision]]:
    """Every kernel of a model by path, slot and name."""
    surveyed = survey(store)
    return {
        (kernel.layer.path, decision.slot.name, kernel.spec.name): (kernel, decision)
        for decision in plan_inspect(surveyed).decisions
        for kernel in decision.slot.kernels
    }


def compare_kernel(
    key: Key,
    before: tuple[Kernel, Decision] | None,
    after: tuple[Kernel, Decision] | None,
    with_figures: bool,
) -> Comparison:
    """One kernel in two models; None where it is in one alone."""
    path, slot, name = key
    there = after or before
    assert there is not None  # the key came from one of them

    def of(read: Callable[[Kernel, Decision], T | None]) -> list[T | None]:
        return [None if side is None else read(*side) for side in (before, after)]

    weights = of(lambda kernel, _: kernel.weight)
    status, change = "gone" if after is None else "added", None
    if weights[0] is not None and weights[1] is not None:
        status, change = _status(weights[0], weights[1])
    measured = of(lambda kernel, d: figures(kernel, d.attachment) if with_figures else None)
    carried = _both_in_words(*of(lambda _, d: d.slot.existing))
    held = _both_in_words(*of(lambda _, d: d.slot.constraint))
    ours = of(lambda _, d: None if d.slot.current is None else regularizer_record(d.slot.current))
    holding = of(lambda _, d: None if d.slot.held is None else constraint_record(d.slot.held))
    return Comparison(
        path=path,
        slot=slot,
        kernel=name,
        class_name=there[0].layer.class_name,
        shape_before=_shape(weights[0]),
        shape_after=_shape(weights[1]),
        status=status,
        weight_change=change,
        regularizer_before=carried[0],
        regularizer_after=carried[1],
        before=measured[0],
        after=measured[1],
        carried_before=ours[0],
        carried_after=ours[1],
        constraint_before=held[0],
        constraint_after=held[1],
        held_before=holding[0],
        held_after=holding[1],
    )


def _both_in_words(before: Any, after: Any) -> tuple[str | None, str | None]:
    """Two nodes of configs in words, which differ where the nodes do what differs."""
    words = [None if node is None else _in_words(node) for node in (before, after)]
    if words[0] is not None and words[0] == words[1]:
        leaves = [dict(_leaves(_config(node))) for node in (before, after)]
        keys = [k for k in {**leaves[0], **leaves[1]} if leaves[0].get(k) != leaves[1].get(k)]
        if keys:
            more = (", ".join(f"{k}={side.get(k, 'none')}" for k in keys) for side in leaves)
            words = [f"{word} ({own})" for word, own in zip(words, more, strict=True)]
    return words[0], words[1]


def _in_words(node: Any) -> str:
    if is_our_constraint(node):
        return str(Constrained.from_node(node))
    return describe(node)


# What `strip` puts back does nothing until then.
_ASIDE = ("replaced", "absent")


def _config(node: Any) -> Mapping[str, Any]:
    """What a node says beyond its class; of ours as this version writes it."""
    if is_our_constraint(node):
        node = Constrained.from_node(node).to_node()
    elif is_ours(node):
        node = Attachment.from_node(node).to_node()
    config = node.get("config") if isinstance(node, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Each value by its keys, in words; floats to the six digits that are shown."""
    for key, value in config.items():
        name = f"{above}{key}"
        if key in _ASIDE or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)


def _status(before: WeightRef, after: WeightRef) -> tuple[str, float | None]:
    """What became of a kernel that both models have, and by how much it changed."""
    if not (before.is_known and after.is_known):
        return "same" if _are_same(before, after) else "changed", None
    if before.shape != after.shape:
        return "reshaped", None
    same, change = _change(before, after)
    return "same" if same else "changed", change


def _shape(weight: WeightRef | None) -> tuple[int, ...] | None:
    return weight.shape if weight is not None and weight.is_known else None


def _are_same(before: WeightRef, after: WeightRef) -> bool:
    """Whether all that could be a kernel is the same in both, where it is not known which it is."""
    pairs = list(zip(before.candidates, after.candidates, strict=False))
    return len(before.candidates) == len(after.candidates) and all(
        a.shape == b.shape and _change(a, b)[0] for a, b in pairs
    )


def _change(before: WeightRef, after: WeightRef) -> tuple[bool, float]:
    return after.once(
        ("change", before.key), lambda: relative_change(before.array(), after.array())
    )
