"""A `keras.Model` in memory: read, rebuilt with an edited config, or changed in place."""
