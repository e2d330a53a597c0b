"""Kernels pulled towards orthogonality after each optimizer step, in place of a penalty."""
