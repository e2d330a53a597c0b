"""Where a model lives: each store reads its config and kernels, and writes an edited copy."""
