"""New values for what a plan leaves, from data without labels."""

from depgraph.execution.repairs import LayerRepair

__all__ = ["LayerRepair"]
