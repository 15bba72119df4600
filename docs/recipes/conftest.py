"""Pages that use timm or transformers find a torchvision of another build of torch usable, as the tests of models do."""

from importlib.util import find_spec

if find_spec("torchvision"):
    from tests import zoo

    zoo.torchvision()
