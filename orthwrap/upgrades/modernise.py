"""A model's config from any Keras, in the words of Keras 3. Pure: the input is left as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.stores.edits import StoreEdit, Transform, Weight, WeightEdit, WeightsView
from orthwrap.upgrades.ledger import Config, Modernised
from orthwrap.upgrades.models import compile_config, keras1, keras3, modules, naming
from orthwrap.upgrades.models.walk import Walker, is_model
from orthwrap.upgrades.rewriting import Rewriting, is_layer_node, parse_version


@contextmanager
def readable_faults(what: str) -> Iterator[None]:
    """A config of a form that is not known takes one line to say."""
    try:
        yield
    except RecursionError as err:
        raise FileFault(f"{what}: nested more deeply than can be read") from err
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as err:
        reason = " ".join(str(err).split())[:100]
        raise FileFault(
            f"{what}: not in a form that orthwrap can bring to Keras 3 ({type(err).__name__}: "
            f"{reason}); load it with the Keras that wrote it and save it again"
        ) from err


def modernise(
    model_config: Config,
    *,
    training_config: Config | None = None,
    keras_version: str = "",
    backend: str = "",
    weights: WeightsView | None = None,
) -> Modernised:
    """Bring a model's config to Keras 3, and say what its weights need.

    Args:
        training_config: how it is compiled, where the config does not say so itself.
        keras_version, backend: "" where the file does not say.
        weights: of a file that keeps arrays by layer.

    Raises:
        FileFault: it is no config, or holds what no Keras 3 can have.
    """
    version = parse_version(keras_version)
    if version >= (3, 0):
        return _of_keras_3(model_config, training_config, keras_version, backend)
    with readable_faults("model config"):
        run = Rewriting(version, backend, weights)
        model, edits = _model(model_config, run)
        if model.get("compile_config") is not None:
            model["compile_config"] = compile_config.modernise_compile(model["compile_config"], run)
        new_training = compile_config.modernise_training(training_config, run)
        upgrades = run.ledger.upgrades()
    if not upgrades:
        return Modernised(model_config, training_config)
    return Modernised(
        model,
        new_training,
        renamed=dict(run.renamed),
        weight_edits=tuple(
            WeightEdit(e.layer, _guarded(f"weights of layer {e.layer!r}", e.transform))
            for e in edits
        ),
        store_edits=tuple(
            StoreEdit(e.path, _guarded(f"weights in {e.path!r}", e.transform))
            for e in run.store_edits
        ),
        store_moves=tuple(run.store_moves),
        upgrades=upgrades,
        needs_orthwrap=tuple(run.needs),
    )


def _of_keras_3(
    model_config: Config, training_config: Config | None, keras_version: str, backend: str
) -> Modernised:
    """What any Keras 3 wrote, in forms that the present one reads; arrays stay as they are."""
    run = Rewriting(parse_version(keras_version), backend, None)
    with readable_faults("model config"):
        model = copy.deepcopy(model_config)
        run.ledger.root = naming.name_of(model) or "model"
        keras3.rewrite(model, run)
        compile_config.portable(model, run)
        training = compile_config.spelled_out(training_config, run)
        upgrades = run.ledger.upgrades()
    if not upgrades:
        return Modernised(model_config, training_config)
    return Modernised(
        model,
        training,
        keras_version=keras_version,
        backend=backend or "tensorflow",
        upgrades=upgrades,
    )


def _guarded(what: str, transform: Transform) -> Transform:
    """The same, where arrays of a form that is not known take one line to say."""

    def run(weights: list[Weight]) -> list[Weight]:
        with readable_faults(what):
            return transform(weights)

    return run


def _model(model_config: Any, run: Rewriting) -> tuple[Config, list[WeightEdit]]:
    if not is_layer_node(model_config):
        raise FileFault("model config: expected a class name and a config; the file is broken")
    model: Config = copy.deepcopy(model_config)
    edits: list[WeightEdit] = []
    run.ledger.root = naming.name_of(model) or "model"
    modules.update_modules(model, run)
    if is_model(model):
        naming.rename_root(model, run)
        keras_1 = run.version[0] == 1 or (run.version == (0, 0) and _is_keras_1(model))
        theano = run.backend == "theano" or (keras_1 and _theano_names(run.weights))
        walker = Walker(run, keras_1, keras1.ordering_of(model) if keras_1 else None, theano)
        groups = _groups(model, run.weights)
        parts = walker.model(model, "")
        edits = [
            WeightEdit(group, part.transform)
            for group, part in zip(groups, parts, strict=True)
            if part.transform is not None and group is not None
        ]
    elif class_of(model) == "Graph":
        raise FileFault("model config: a Graph model of Keras 0.x; rebuild it with Keras 1 or 2")
    return model, edits


def _is_keras_1(node: Any) -> bool:
    if isinstance(node, dict):
        config = node.get("config")
        if isinstance(config, dict) and keras1.looks_like_keras_1(class_of(node), config):
            return True
        return any(_is_keras_1(item) for item in node.values())
    return isinstance(node, list) and any(_is_keras_1(item) for item in node)


def _theano_names(weights: WeightsView | None) -> bool:
    """Keras 1 did not name its backend, but TensorFlow's variables end in an output's number."""
    if weights is None:
        return False
    found = [name for layer in weights.layer_names() for name in weights.shapes(layer)]
    return bool(found) and not any(name.endswith(":0") for name in found)


def _groups(model: Config, weights: WeightsView | None) -> list[str | None]:
    """The group of each top-level layer: by name, or by place where a layer has no name."""
    config = model.get("config")
    layers = config if isinstance(config, list) else (config or {}).get("layers", [])
    in_file = weights.layer_names() if weights is not None else ()
    groups: list[str | None] = []
    for index, node in enumerate(layers):
        inner = node.get("config") if isinstance(node, dict) else None
        name = node.get("name") if isinstance(node, dict) else None
        if not isinstance(name, str):
            name = inner.get("name") if isinstance(inner, dict) else None
        if name is None and len(in_file) == len(layers):
            name = in_file[index]
        groups.append(name)
    return groups
