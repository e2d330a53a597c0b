"""What orthwrap raises. One base class, so that callers need to know one name."""

from __future__ import annotations


class OrthwrapError(Exception):
    """Base of every error orthwrap raises on purpose.

    The message is one line: what was expected, what was found (with the layer's path where
    there is one), and what to do next.
    """


class ValueFault(OrthwrapError, ValueError):
    """A value is at fault: an unknown name, a negative factor, data of the wrong shape."""


class NoMatchError(ValueFault):
    """A pattern matches nothing that can be regularized."""


class FileFault(OrthwrapError):
    """A file is missing, broken, of another kind, or must not be written."""


class RebuildError(OrthwrapError):
    """A model cannot be rebuilt from its config."""


class UsageError(OrthwrapError):
    """Options contradict each other; the command line exits with 2."""
