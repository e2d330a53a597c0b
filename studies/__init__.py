"""The study: where orthogonality helps, where it does nothing, and where it harms."""
