"""A stateful fuzzer: what users do to an optimizer between its steps, against a model of what should then happen.

`world` holds the optimizer, torch's beside it, and what a user expects to see; `gradients`, `groups`, `states`,
`checkpoints` are the actions; `machine` puts them together for hypothesis. `python -m fuzz` in tests/ runs many.
"""
