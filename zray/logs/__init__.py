"""How lines are summed up and shown."""
