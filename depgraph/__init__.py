"""depgraph: exact structural pruning of PyTorch models as a pure, immutable graph library."""

from depgraph.candidates import Candidate, Share, candidates, combine
from depgraph.choose import plan
from depgraph.clocks import OperationForm, latency_table
from depgraph.criteria import (
    FPGM,
    LAMP,
    OBDC,
    Activation,
    BNScale,
    Elementwise,
    Hessian,
    Magnitude,
    MemberScores,
    Random,
    Taylor,
    Wanda,
)
from depgraph.cutting import cut, cut_each
from depgraph.equations import Rule
from depgraph.errors import (
    DepgraphError,
    DocumentError,
    MismatchError,
    PinnedError,
    PlanError,
    RuleError,
    TraceError,
    UnknownNameError,
)
from depgraph.execution import execute, execute_, parameter_map
from depgraph.graph import Graph
from depgraph.indices import IndexSet
from depgraph.iterating import Step, iterate
from depgraph.masking import Masked, mask, mask_
from depgraph.optimizers import carry_state
from depgraph.penalties import group_l2, group_lasso, penalty_gradients, scale_l1
from depgraph.plans import Cut, Edit, Plan, Target
from depgraph.ragged import ragged_groups, why_uniform
from depgraph.records import Dependency, Group, Node, OpType, Pinned
from depgraph.render import explain
from depgraph.rules import RULES
from depgraph.schedules import lifted, remainder, schedule
from depgraph.scoring import score
from depgraph.strengths import graded_strengths, grow, strengths_of
from depgraph.tracing import trace
from depgraph.wrappers import name_of

__all__ = [
    "FPGM",
    "LAMP",
    "OBDC",
    "RULES",
    "Activation",
    "BNScale",
    "Candidate",
    "Cut",
    "Dependency",
    "DepgraphError",
    "DocumentError",
    "Edit",
    "Elementwise",
    "Graph",
    "Group",
    "Hessian",
    "IndexSet",
    "Magnitude",
    "Masked",
    "MemberScores",
    "MismatchError",
    "Node",
    "OpType",
    "OperationForm",
    "Pinned",
    "PinnedError",
    "Plan",
    "PlanError",
    "Random",
    "Rule",
    "RuleError",
    "Share",
    "Step",
    "Target",
    "Taylor",
    "TraceError",
    "UnknownNameError",
    "Wanda",
    "candidates",
    "carry_state",
    "combine",
    "cut",
    "cut_each",
    "execute",
    "execute_",
    "explain",
    "graded_strengths",
    "group_l2",
    "group_lasso",
    "grow",
    "iterate",
    "latency_table",
    "lifted",
    "mask",
    "mask_",
    "name_of",
    "parameter_map",
    "penalty_gradients",
    "plan",
    "ragged_groups",
    "remainder",
    "scale_l1",
    "schedule",
    "score",
    "strengths_of",
    "trace",
    "why_uniform",
]
