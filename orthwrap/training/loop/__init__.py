"""The run itself: epochs, checkpoints, logs, interrupts."""
