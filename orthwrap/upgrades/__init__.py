"""Bring model files of Keras 1 and 2 to Keras 3.

A Keras model is a config tree plus named weights, and modernising is one more edit of the tree.
Pure functions decide (`modernise`, `plan_h5`); `upgrade_h5` and its siblings act, each on a copy.
Nothing here imports Keras or TensorFlow, and no code from a file runs.
"""

from __future__ import annotations

from orthwrap.stores.edits import Weight, WeightEdit, WeightsView
from orthwrap.upgrades.h5_file import apply_h5, plan_h5, upgrade_h5
from orthwrap.upgrades.keras_zip import plan_keras_zip, upgrade_keras_zip
from orthwrap.upgrades.ledger import Modernised, Upgrade
from orthwrap.upgrades.modernise import modernise, modernise_keras_config
from orthwrap.upgrades.saved_model import upgrade_saved_model

__all__ = [
    "Modernised",
    "Upgrade",
    "Weight",
    "WeightEdit",
    "WeightsView",
    "apply_h5",
    "modernise",
    "modernise_keras_config",
    "plan_h5",
    "plan_keras_zip",
    "upgrade_h5",
    "upgrade_keras_zip",
    "upgrade_saved_model",
]
