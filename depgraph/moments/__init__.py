"""First and second moments of what the layers of a model read: what repair and criteria of reconstruction are made from."""

from depgraph.moments.collecting import collect
from depgraph.moments.layers import Layer, Layout
from depgraph.moments.sums import Moments, Sums

__all__ = ["Layer", "Layout", "Moments", "Sums", "collect"]
