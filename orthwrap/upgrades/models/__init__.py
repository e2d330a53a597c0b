"""Rewrites of a whole model's config."""
