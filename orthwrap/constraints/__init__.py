"""The Keras constraint that holds singular values after each optimizer step.

It is registered as `orthwrap>OrthogonalityConstraint`. This module's name stands in users' files.
"""

from __future__ import annotations

from orthwrap.constraints.held import OrthogonalityConstraint, project

__all__ = ["OrthogonalityConstraint", "project"]
