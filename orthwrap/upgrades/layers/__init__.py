"""Rewrites of one layer's node, in the order of `table`."""
