"""Plans as data: what groups lose, the axes and attributes that follow, and how a plan is made from that.

No torch. A plan is enough to prune a checkpoint without the model.
"""

from depgraph.plans.algebra import BranchDifference, CutDifference, DropDifference, EditDifference, PlanDifference
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Cut, Edit, Plan, PrunedAxis, Target, Unread

__all__ = [
    "BranchDifference",
    "Cut",
    "CutDifference",
    "DropDifference",
    "Edit",
    "EditDifference",
    "Plan",
    "PlanDifference",
    "PrunedAxis",
    "Target",
    "Unread",
    "plan_of",
]
