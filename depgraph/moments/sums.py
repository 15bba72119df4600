"""First and second moments of what layers read: sums that add up over batches, ranks and machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from attrs import field, frozen

from depgraph import codec, tensor_files
from depgraph.errors import DocumentError, PlanError
from depgraph.moments.layers import Layer
from depgraph.read_only import read_only
from depgraph.running import gathered_from_ranks, has_ranks, together

WIDEST_IN_DOUBLE = 4096
"""Up to so many inputs the sums are kept in double precision; beyond, a matrix of them would take gigabytes."""

STRIPE = 256
"""So many rows of a symmetric matrix are computed at a time."""


@frozen(eq=False)
class Sums:
    """Of the rows that a layer read: how many, their sum, and the sum of their outer products.

    Attributes:
        count: number of rows.
        total: the sum of the rows, ``[blocks, inputs]``.
        products: the sum of x xᵀ, ``[blocks, inputs, inputs]``.

    >>> sums = Sums.of(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    >>> sums.count, sums.total.tolist(), sums.products.tolist()
    (2, [[4.0, 6.0]], [[[10.0, 14.0], [14.0, 20.0]]])
    """

    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Sums:
        """The sums of some rows, ``[blocks, rows, inputs]``, multiplied in their own precision."""
        return cls.none(rows).with_half_of(rows).mirrored()

    @classmethod
    def none(cls, rows: torch.Tensor) -> Sums:
        """The sums of no rows, to which such rows can be added."""
        blocks, _, inputs = rows.shape
        wide = sum_dtype(rows)
        return cls(0, rows.new_zeros(blocks, inputs, dtype=wide), rows.new_zeros(blocks, inputs, inputs, dtype=wide))

    def with_half_of(self, rows: torch.Tensor) -> Sums:
        """These sums and those of more rows, in the memory of these; of the products only those above the diagonal."""
        for start in range(0, self.inputs, STRIPE):
            stripe = slice(start, start + STRIPE)
            products, pair = self.products[:, stripe, start:], (rows[..., stripe].mT, rows[..., start:])
            if rows.dtype == products.dtype:
                products.baddbmm_(*pair)
            else:
                products.add_(torch.bmm(*pair))
        return Sums(self.count + rows.shape[1], self.total.add_(rows.sum(1)), self.products)

    def mirrored(self) -> Sums:
        """These sums, with the products below the diagonal made those above it, in their memory."""
        for start in range(0, self.inputs, STRIPE):
            stripe = slice(start, start + STRIPE)
            square = self.products[:, stripe, stripe]
            square.copy_(square.triu() + square.triu(1).mT)
            self.products[:, start + STRIPE :, stripe] = self.products[:, stripe, start + STRIPE :].mT
        return self

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def inputs(self) -> int:
        """Number of columns."""
        return self.total.shape[-1]

    def to(self, device: torch.device) -> Sums:
        """The same on a device."""
        return Sums(self.count, self.total.to(device), self.products.to(device))


def sum_dtype(rows: torch.Tensor) -> torch.dtype:
    """The precision in which sums of rows are kept."""
    if rows.device.type == "mps" or rows.shape[-1] > WIDEST_IN_DOUBLE:
        return rows.dtype
    return torch.float64


@frozen
class _FileHeader:
    """What a file of sums tells beside its tensors: of what they are, and how many rows."""

    of: str
    count: int


class SumsInFiles(Mapping[str, Sums]):
    """Sums by name, each in a file of its own, which is read and checked when it is asked for; none is held."""

    def __init__(self, folder: Path, part: str, names: Iterable[str]) -> None:
        self._folder, self._part = folder, part
        self._paths = {name: self._path(number) for number, name in enumerate(names)}

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._part}.{number}.safetensors"

    def __getitem__(self, name: str) -> Sums:
        header, tensors = tensor_files.load(self._paths[name], "sums", _FileHeader)
        if header.of != f"{self._part}.{name}":
            raise DocumentError(f"{self._paths[name]} has the sums of {header.of!r}, expected {self._part}.{name!r}.")
        return Sums(header.count, tensors["total"], tensors["products"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def write(self, name: str, sums: Sums) -> None:
        """Add a name, with a file."""
        path, header = self._path(len(self)), _FileHeader(f"{self._part}.{name}", sums.count)
        tensor_files.save(path, "sums", header, {"total": sums.total, "products": sums.products})
        self._paths[name] = path


def _unchanging(sums: Mapping[str, Sums]) -> Mapping[str, Sums]:
    return sums if isinstance(sums, SumsInFiles) else read_only(sums)


@frozen
class _Header:
    """Moments without their tensors."""

    source: str
    layers: tuple[Layer, ...]
    left: tuple[tuple[str, str], ...]
    counts: tuple[tuple[str, int], ...]


@frozen
class _Index:
    """Moments in a folder, without their sums."""

    source: str
    layers: tuple[Layer, ...]
    left: tuple[tuple[str, str], ...]
    fitted: tuple[str, ...]
    held_out: tuple[str, ...]


@frozen(eq=False)
class Moments:
    """What the layers of a model read, as sums: all that repair and criteria of reconstruction need.

    Moments of the same model add up: those of two machines are those of all batches. The last samples are kept apart, to judge
    by what nothing was fitted to.

    Attributes:
        source: digest of the model's weights.
        layers: the layers, in the order of the forward.
        fitted: the sums of the samples to fit to, by `Layer.reads`; those in a folder are read at each access.
        held_out: the sums of the samples to judge by.
        left: parameters of layers that cannot be solved for, each with the reason.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Linear(2, 1)
    >>> one = dg.moments.collect(model, [torch.tensor([[1.0, 2.0], [3.0, 4.0]])], holdout=0.5)
    >>> both = one + one
    >>> isinstance(both, Moments)
    True
    >>> both.fitted["weight"].count, both.fitted["weight"].total.tolist(), both.held_out["weight"].products.tolist()
    (2, [[2.0, 4.0]], [[[18.0, 24.0], [24.0, 32.0]]])
    """

    source: str
    layers: tuple[Layer, ...]
    fitted: Mapping[str, Sums] = field(converter=_unchanging)
    held_out: Mapping[str, Sums] = field(converter=_unchanging)
    left: Mapping[str, str] = field(converter=read_only)

    def __add__(self, other: Moments) -> Moments:
        known = {layer.weight: layer for layer in (*other.layers, *self.layers)}
        differing = [layer.reads for layer in other.layers if known[layer.weight].reads != layer.reads]
        if self.source != other.source or differing:
            what = f"with other layers that share an input: {differing}" if differing else "of models with other weights"
            raise PlanError(f"expected moments of one model, met moments {what}. Collect both with the same model.")
        return Moments(
            self.source,
            tuple(known.values()),
            joined(self.fitted, other.fitted),
            joined(self.held_out, other.held_out),
            {**self.left, **other.left},
        )

    def save(self, path: str | Path) -> None:
        """Write them as safetensors with a JSON header, whole or not at all. Needs the package safetensors."""
        sums = {f"{part}.{name}": item for part in _PARTS for name, item in getattr(self, part).items()}
        tensors = {f"{name}.{kind}": getattr(item, kind) for name, item in sums.items() for kind in ("total", "products")}
        counts = tuple((name, item.count) for name, item in sums.items())
        tensor_files.save(path, "moments", _Header(self.source, self.layers, tuple(self.left.items()), counts), tensors)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read what `save` wrote, or open the folder that `collect` wrote with `offload=`.

        Of a folder the sums stay where they are: each is read, and its file checked, when it is asked for.

        Raises:
            DocumentError: the file is damaged, edited, foreign or of another version.
        """
        if (folder := Path(path)).is_dir():
            index = codec.read(folder / _INDEX, "moments_index", _Index)
            files = [SumsInFiles(folder, part, getattr(index, part)) for part in _PARTS]
            return cls(index.source, index.layers, files[0], files[1], dict(index.left))
        header, tensors = tensor_files.load(path, "moments", _Header)
        found = {name: Sums(count, tensors[f"{name}.total"], tensors[f"{name}.products"]) for name, count in header.counts}
        fitted, held_out = (
            {name.removeprefix(f"{part}."): item for name, item in found.items() if name.startswith(f"{part}.")}
            for part in _PARTS
        )
        return cls(header.source, header.layers, fitted, held_out, dict(header.left))

    def everything(self, name: str) -> Sums:
        """The sums of all samples that one layer's input is known of."""
        parts = [sums[name] for sums in (self.fitted, self.held_out) if name in sums]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


_PARTS = ("fitted", "held_out")

_INDEX = "moments.json"


def write_folder(
    folder: Path, source: str, layers: Iterable[Layer], sums: Sequence[Mapping[str, Sums]], left: Mapping[str, str]
) -> Moments:
    """Write moments to an empty folder, the sums of one name at a time, and open them there."""
    names: list[tuple[str, ...]] = []
    for part, items in zip(_PARTS, sums, strict=True):
        files = SumsInFiles(folder, part, ())
        for name, item in of_all_ranks(items):
            files.write(name, item)
            del item
        names.append(tuple(files))
    codec.write(folder / _INDEX, "moments_index", _Index(source, tuple(layers), tuple(left.items()), *names))
    return Moments.load(folder)


def joined(one: Mapping[str, Sums], other: Mapping[str, Sums]) -> dict[str, Sums]:
    """Sums by name, added where both have them."""
    result = dict(one)
    for name, sums in other.items():
        result[name] = result[name] + sums if name in result else sums
    return result


def of_all_ranks(sums: Mapping[str, Sums]) -> Iterator[tuple[str, Sums]]:
    """The sums over all ranks, where there are several, one by one; a rank may lack what none of its samples was routed to."""
    if not has_ranks():
        yield from sums.items()
        return
    shapes = {name: (tuple(item.products.shape), item.products.dtype, item.total.device) for name, item in sums.items()}
    device = next((device for _, _, device in shapes.values()), torch.device("cpu"))
    for name, (shape, dtype, _) in sorted(gathered_from_ranks(shapes).items()):
        item = sums.get(name) or Sums(0, *(torch.zeros(part, dtype=dtype, device=device) for part in (shape[:2], shape)))
        count = torch.tensor(float(item.count), device=device)
        together([count, item.total, item.products])
        yield name, Sums(int(count), item.total, item.products)
        del item
