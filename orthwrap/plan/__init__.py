"""3. Slots and rules → decisions with reasons. Nothing is changed here."""
