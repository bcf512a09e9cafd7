"""What an optimizer does: groups, state, clock, plans, steps, checkpoints.

``algorithm`` is what an optimizer's class declares, and ``session`` is what changes while it trains. The other modules
are the parts of a session, or functions that work on one. None of them knows the optimizer's class.
"""
