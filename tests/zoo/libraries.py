"""Imports what the models of the zoos are made with: a process that has done so is forked for each of them."""

import gc
import importlib

from tests.zoo import torchvision, transformers

torchvision()
transformers()
for name in ("timm", "depgraph", "depgraph.testing", "tests.zoo.conformance"):
    importlib.import_module(name)
gc.freeze()  # what the libraries hold is not looked through again in each process
