"""Keep Python's garbage collector out of what allocates much and gives nothing back before it ends."""

from __future__ import annotations

import gc

from depgraph.settings import Setting

without_collections = Setting(
    gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds), lambda now: (0, *now[1:])
).changed
"""Under which no collection starts by itself; `gc.collect()` still works.

The threshold of the youngest generation is 0 meanwhile. `gc.disable` would not do: what a user disables or enables in the
meantime could not be told from the block's own. So that switch is never touched.
"""
