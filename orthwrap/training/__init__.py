"""Fine-tuning: what to optimise, the loop, and what is shown and kept of it."""
