"""What is optimised: loss, labels, optimizer, layers that are trained."""
