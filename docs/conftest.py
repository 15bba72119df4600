"""Pages that need a package are left out where it is not installed; `tox run -e docs` and `-e tests` have all of them."""

from importlib.util import find_spec

NEEDS = {
    "migration.md": "torch_pruning",
    "recipes/distil.md": "sklearn",
    "recipes/mixture_of_experts.md": "transformers",
    "recipes/vision_transformer.md": "timm",
}
collect_ignore = [page for page, package in NEEDS.items() if find_spec(package) is None]

if find_spec("torchvision"):
    from tests import zoo

    zoo.torchvision()  # timm and transformers import it, also where it was built for another torch
