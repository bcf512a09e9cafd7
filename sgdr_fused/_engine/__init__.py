"""What an optimizer does: groups, state, clock, plans, steps, checkpoints."""
