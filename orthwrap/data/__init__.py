"""Data to train on: arrays, folders of images, and streams of batches, behind one protocol."""

from orthwrap.data.ports import Array, Port
from orthwrap.data.sets import Data, Set
from orthwrap.data.sources import load

__all__ = ["Array", "Data", "Port", "Set", "load"]
