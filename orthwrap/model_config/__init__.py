"""A model's config as a tree, and what its layers' kernels are."""
