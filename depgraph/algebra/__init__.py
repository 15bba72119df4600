"""Index sets, the spaces that axes range over, the maps between their indices, and polynomials in sizes.

The lowest room: it imports nothing of the package but the errors, and no torch.
"""
