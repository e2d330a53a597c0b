"""Report → something to look at."""
