"""The only writer: plans applied to modules and to the state that belongs to them, all or nothing.

It obeys plans, and knows neither the tracer, nor rules, nor the solver, nor criteria.
"""
