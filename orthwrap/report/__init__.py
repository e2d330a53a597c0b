"""5. What was done, as data and as something to look at."""
