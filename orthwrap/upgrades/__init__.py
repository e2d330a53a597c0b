"""Models of Keras 1 and 2 brought to Keras 3: configs and arrays in, configs and arrays out.

A Keras model is a config tree plus named weights, and modernising is one more edit of the tree.
All here is pure: what is to be done is handed on as data (`orthwrap.stores.edits`), and the stores
do it. Nothing here imports Keras or TensorFlow, opens a file, or runs code from one.
"""

from __future__ import annotations

from orthwrap.upgrades.by_format import modernised
from orthwrap.upgrades.ledger import Modernised, Upgrade
from orthwrap.upgrades.modernise import modernise

__all__ = ["Modernised", "Upgrade", "modernise", "modernised"]
