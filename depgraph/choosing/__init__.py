"""From numbers to a plan: who competes with whom, how far groups may be cut, and what the result may cost.

No torch. Scores come from `criteria`, or are any numbers of your own.
"""

from depgraph.choosing.candidates import Candidate, Share

__all__ = ["Candidate", "Share"]
