"""The factors while training: found from gradients, moved by schedules."""
