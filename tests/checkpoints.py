"""Checkpoints of all forms, written and read whole: what the streamed ones are compared with."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from depgraph.testing import tensor_bytes

FORMS = ("safetensors", "torch", "safetensors shards", "torch shards", "one in a folder")
METADATA = {"format": "pt", "made by": "a test"}


def state_of(model):
    """The state dict, without what is no tensor."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def untied(state, keep=0):
    """The state with one name of each tied tensor, as safetensors stores it: the first, the last, ..."""
    names = {}
    for name, tensor in state.items():
        names.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else name, []).append(name)
    kept = {same[keep % len(same)] for same in names.values()}
    return {name: tensor.contiguous() for name, tensor in state.items() if name in kept}


def save(form, state, folder):
    """Write a state in a form, and return its path."""
    path = Path(folder)
    if form == "safetensors":
        save_file(state, path / "model.safetensors", METADATA)
        return path / "model.safetensors"
    if form == "torch":
        torch.save(state, path / "model.pt")
        return path / "model.pt"
    path = path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    if form == "one in a folder":
        save_file(state, path / "model.safetensors", METADATA)
        return path
    kind, suffix = form.split()[0], ".safetensors" if form.startswith("safetensors") else ".bin"
    places, names = {}, list(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002{suffix}"
        tensors = {name: state[name] for name in part}
        if kind == "torch":
            torch.save(tensors, path / file)
        else:
            save_file(tensors, path / file, METADATA)
        places.update(dict.fromkeys(part, file))
    content = {"metadata": {"total_size": 1, "kept": True}, "weight_map": places}
    (path / f"model{suffix}.index.json").write_text(json.dumps(content))
    return path


def load(path):
    """Everything that a checkpoint holds, each tensor once."""
    path, state = Path(path), {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix != ".json":
            part = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
            assert not part.keys() & state.keys(), "a tensor is there twice"
            state.update(part)
    return state


def assert_same(state, wanted):
    """Equal names, dtypes, shapes and bits."""
    assert set(state) == set(wanted), f"other names: {set(state) ^ set(wanted)}"
    for name, tensor in wanted.items():
        met = state[name]
        assert met.dtype == tensor.dtype and met.shape == tensor.shape, f"{name} is {met.dtype}, {tuple(met.shape)}"
        assert tensor_bytes(met) == tensor_bytes(tensor), f"{name} has other numbers"


def content(path):
    """Every file at a path with its bytes; None where nothing is."""
    path = Path(path)
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    return path.read_bytes() if path.exists() else None
