"""From what operators state about spaces and sizes to a graph: the vocabulary of rules, the solver, and the assembly.

No torch: a tracer hands over a `Recording`, which holds no tensor.
"""
