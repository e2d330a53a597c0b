"""Rebuilds a SavedModel's model with tf_keras: `python -m … FOLDER OUT`, in its own process.

tf_keras and Keras 3 do not go together in one process. Only the config and the checkpoint are
read; the folder's functions are not loaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orthwrap.errors import FileFault, OrthwrapError
from orthwrap.upgrades.saved_model import CHECKPOINT, find_lambdas, read_config


def rebuild(folder: Path, out: Path) -> None:
    """Build the model from its config, read its weights, and save it."""
    config, _ = read_config(folder)
    if find_lambdas(config):
        raise FileFault("a Lambda layer, whose code is not run")
    try:
        import tf_keras
    except ImportError as err:
        raise FileFault(
            "reading a SavedModel needs tf_keras: pip install 'orthwrap[legacy]'"
        ) from err
    try:
        model = tf_keras.models.model_from_config(config)
    except Exception as err:
        reason = " ".join(str(err).split())
        if "Unknown layer" in reason:
            reason = reason.split(". ")[0]
        raise FileFault(
            f"its config cannot be rebuilt ({reason:.160}); custom layers need their own code: "
            "save it as .h5 or .keras where that code is"
        ) from err
    if not model.built:
        shape = config["config"].get("build_input_shape")
        if not isinstance(shape, list):
            raise FileFault("the model's input shape is not in its config")
        model.build(tuple(shape))
    try:
        status = model.load_weights(str(folder / CHECKPOINT))
        status.assert_existing_objects_matched()
        status.expect_partial()
    except Exception as err:
        reason = " ".join(str(err).split())
        raise FileFault(f"its weights do not fit its config ({reason:.160})") from err
    model.save(out)


def main(arguments: list[str]) -> int:
    """Run, and say in one line what went wrong."""
    try:
        rebuild(Path(arguments[0]), Path(arguments[1]))
    except OrthwrapError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
