"""The graph as a value: its records, what follows from them (groups, nodes, dependencies), and what it tells a reader.

No torch. It is made by `solving.assembly`, read by everyone, and never changed.
"""
