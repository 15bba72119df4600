"""What makes an index important: functions from a graph and its weights to plain numbers.

What a criterion gives are `Importances`, a plain mapping; any mapping of the same form will do for `dg.plan`:

>>> mine: Importances = {"0.weight:0": (0.5, 0.1, 0.9)}
"""

from depgraph.criteria.activations import Activation, Wanda
from depgraph.criteria.blocks import AngularDistance, BlockInfluence
from depgraph.criteria.branches import BranchInfluence
from depgraph.criteria.collecting import DataDriven
from depgraph.criteria.experts import REAP, Frequency
from depgraph.criteria.gradients import OBDC, Hessian, Taylor
from depgraph.criteria.reconstruction import Fluctuation, Reconstruction
from depgraph.criteria.reductions import Importances, MemberScores
from depgraph.criteria.weights import FPGM, LAMP, BNScale, Elementwise, Magnitude, Random

__all__ = [
    "FPGM",
    "LAMP",
    "OBDC",
    "REAP",
    "Activation",
    "AngularDistance",
    "BNScale",
    "BlockInfluence",
    "BranchInfluence",
    "DataDriven",
    "Elementwise",
    "Fluctuation",
    "Frequency",
    "Hessian",
    "Importances",
    "Magnitude",
    "MemberScores",
    "Random",
    "Reconstruction",
    "Taylor",
    "Wanda",
]
