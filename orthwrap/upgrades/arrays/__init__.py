"""Rewrites of weights: their order, layout and names."""
