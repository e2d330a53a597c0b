"""A SavedModel's config and checkpoint, laid out as an old `.keras` has them."""
