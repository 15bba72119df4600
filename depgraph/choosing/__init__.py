"""From numbers to a plan: who competes with whom, how far groups may be cut, and what the result may cost.

No torch. Scores come from `criteria`, or are any numbers of your own.
"""

from depgraph.choosing.candidates import Candidate, Share
from depgraph.choosing.evolution import Evaluated, Generation
from depgraph.choosing.search import Allocation
from depgraph.choosing.shifting import shifts
from depgraph.choosing.tables import Curve, Order, Table, tabulate
from depgraph.choosing.trading import plans_by_depth

__all__ = [
    "Allocation",
    "Candidate",
    "Curve",
    "Evaluated",
    "Generation",
    "Order",
    "Share",
    "Table",
    "plans_by_depth",
    "shifts",
    "tabulate",
]
