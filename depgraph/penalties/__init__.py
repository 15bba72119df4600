"""Penalties on whole groups, for training a model that is easier to prune, and how their strengths grow."""

from depgraph.penalties.penalties import group_l2, group_lasso, penalty_gradients, scale_l1
from depgraph.penalties.strengths import graded_strengths, grow, strengths_of

__all__ = ["graded_strengths", "group_l2", "group_lasso", "grow", "penalty_gradients", "scale_l1", "strengths_of"]
