"""What penalties cost on a model and on the device that is there, beside its training step."""
