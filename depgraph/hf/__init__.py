"""Models of transformers in folders: pruned ones saved, loaded again, and their configurations brought up to date.

transformers is imported when something is asked for, by this package alone.
"""

from depgraph.hf.folders import Saved, from_pretrained, save_pretrained
from depgraph.hf.pruning import prune_folder
from depgraph.hf.updating import update_config_

__all__ = ["Saved", "from_pretrained", "prune_folder", "save_pretrained", "update_config_"]
