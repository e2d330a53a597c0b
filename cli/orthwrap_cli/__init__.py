"""The commands: each parses, calls a verb, and renders."""
