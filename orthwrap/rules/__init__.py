"""What the user says: patterns, rules, schedules, references."""
