"""One run of forward, recorded: what the torch edge knows of a model, as data for the solver.

The model is only read. What a call means is for `rules` to say; here its operator, operands and sizes are recorded.
"""
