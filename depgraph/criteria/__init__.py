"""What makes an index important: functions from a graph and its weights to plain numbers."""

from depgraph.criteria.reductions import Importances, MemberScores
from depgraph.criteria.weights import FPGM, LAMP, BNScale, Elementwise, Magnitude, Random

__all__ = ["FPGM", "LAMP", "BNScale", "Elementwise", "Importances", "Magnitude", "MemberScores", "Random"]
