"""The cache of shapes answers as the operator would, and is not asked where shapes do not tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from depgraph.tracing import shape_cache
from depgraph.tracing.shape_cache import FakeFactory, Replay

aten = torch.ops.aten


def _look(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device


def _cache(mode: FakeTensorMode) -> Replay:
    """One that knows of no other trace."""
    return Replay(FakeFactory(mode), {})


def _twice(func: Any, *pairs: tuple[Callable[[], torch.Tensor], tuple[Any, ...], dict[str, Any]]) -> Replay:
    """Each call, and each again in the same order, gives through one cache what it gives without."""
    mode = FakeTensorMode()
    cache = _cache(mode)
    for make, args, kwargs in pairs * 2:
        with mode:
            tensor = make()
            answered, plain = cache(func, (tensor, *args), kwargs), func(tensor, *args, **kwargs)
        assert _look(answered) == _look(plain)
        assert isinstance(answered, FakeTensor)
    return cache


def _ones(*shape: int, **options: Any) -> Callable[[], torch.Tensor]:
    return lambda: torch.ones(*shape, **options)


CASES: dict[str, tuple[Any, list[tuple[Callable[[], torch.Tensor], tuple[Any, ...], dict[str, Any]]]]] = {
    "strides": (aten.relu.default, [(_ones(4, 6), (), {}), (lambda: torch.ones(6, 4).t(), (), {})]),
    "shapes": (aten.relu.default, [(_ones(4, 6), (), {}), (_ones(4, 7), (), {})]),
    "types of tensors": (aten.relu.default, [(_ones(4), (), {}), (_ones(4, dtype=torch.half), (), {})]),
    "devices": (aten.relu.default, [(_ones(4), (), {}), (_ones(4, device="meta"), (), {})]),
    "offsets": (aten.view.default, [(_ones(4), ([4],), {}), (lambda: torch.ones(8)[4:], ([4],), {})]),
    "types of numbers": (
        aten.add.Scalar,
        [(_ones(4, dtype=torch.int64), (number,), {}) for number in (1, 1.0, True)],
    ),
    "keyword names": (
        aten.sum.dim_IntList,
        [(_ones(4, 6), ([0],), {"keepdim": True}), (_ones(4, 6), ([0],), {"dtype": torch.half})],
    ),
    "nested numbers": (aten.sum.dim_IntList, [(_ones(4, 6), ([0],), {}), (_ones(4, 6), ([1],), {})]),
    "parts of a tensor": (aten.select.int, [(_ones(4, 6), (0, 0), {}), (_ones(4, 6), (0, 2), {})]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_what_the_operator_gives(case: str) -> None:
    func, pairs = CASES[case]
    _twice(func, *pairs)


def test_a_repeated_call_is_answered_by_a_tensor_of_its_own() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        x = torch.ones(4)
        first, second = (cache(aten.relu.default, (x,), {}) for _ in range(2))
        assert first is not second
        assert len(cache.layouts) == 1


def test_a_call_that_returned_its_operand_does_so_again() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        for x in (torch.ones(4), torch.ones(4)):
            assert cache(aten.contiguous.default, (x,), {}) is x


def test_the_default_dtype_is_part_of_a_call() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    before = torch.get_default_dtype()
    with mode:
        x = torch.ones(4, dtype=torch.int64)
        try:
            for dtype in (torch.float32, torch.float64) * 2:
                torch.set_default_dtype(dtype)
                assert cache(aten.sin.default, (x,), {}).dtype == dtype
        finally:
            torch.set_default_dtype(before)


def test_what_is_written_in_place_is_returned_itself() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        for x in (torch.ones(4, 6), torch.ones(4, 6)):
            assert cache(aten.relu_.default, (x,), {}) is x
            assert cache(aten.add_.Tensor, (x, torch.ones(6)), {}) is x
        with pytest.raises(RuntimeError, match="shape"):
            cache(aten.add_.Tensor, (torch.ones(6), torch.ones(4, 6)), {})
    assert len(cache.layouts) == 2


@pytest.mark.parametrize(
    ("func", "args", "shape"),
    [
        (aten.t_.default, (), (6, 4)),
        (aten.unsqueeze_.default, (0,), (1, 4, 6)),
        (aten.resize_.default, ([3, 8],), (3, 8)),
    ],
)
def test_what_changes_a_shape_in_place_is_not_cached(func: Any, args: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        for _ in range(2):
            x = torch.ones(4, 6)
            cache(func, (x, *args), {})
            assert x.shape == shape
    assert not cache.layouts


def test_traces_share_what_torchs_own_operators_give() -> None:
    layouts: dict[Any, Any] = {}
    modes = FakeTensorMode(), FakeTensorMode()
    for mode in modes:
        with mode:
            x = torch.ones(4, 6)
            result = Replay(FakeFactory(mode), layouts)(aten.relu.default, (x,), {})
            assert result.fake_mode is mode
            assert _look(result) == _look(torch.relu(x))
    assert len(layouts) == 1


def test_an_operator_of_ones_own_may_get_another_kernel_between_traces() -> None:
    layouts: dict[Any, Any] = {}
    with torch.library._scoped_library("depgraph_shape_cache", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        func = torch.ops.depgraph_shape_cache.twice.default
        for width in (2, 3):
            torch.library.register_fake(
                "depgraph_shape_cache::twice",
                lambda x, width=width: x.new_empty(len(x) * width),
                lib=library,
                allow_override=True,
            )
            mode = FakeTensorMode()
            with mode:
                assert Replay(FakeFactory(mode), layouts)(func, (torch.ones(4),), {}).shape == (4 * width,)
    assert not layouts


def test_what_is_remembered_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_cache, "_MAX_CALLS", 3)
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        for size in range(1, 9):
            assert cache(aten.relu.default, (torch.ones(size),), {}).shape == (size,)
            assert len(cache.layouts) <= 3


def test_fake_tensors_are_those_that_their_class_makes(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(partial(torch.set_warn_always, torch.is_warn_always_enabled()))
    torch.set_warn_always(True)
    mode = FakeTensorMode()
    fakes = FakeFactory(mode)
    for device in (torch.device("cpu"), torch.device("meta")):
        for _ in range(2):
            made = fakes.make((4, 6), (1, 4), torch.half, device)
            plain = torch.empty_strided((4, 6), (1, 4), dtype=torch.half, device="meta")
            expected = FakeTensor(mode, plain, device)
            assert _look(made) == _look(expected)
            assert vars(made) == vars(expected)
            assert torch._C._dispatch_keys(made) == torch._C._dispatch_keys(expected)
            for tensor in (made, expected):
                with pytest.warns(UserWarning, match="data pointer of FakeTensor"):
                    tensor.data_ptr()


def test_several_results_and_known_data_are_not_cached() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        x = torch.ones(4, 6)
        assert len(cache(aten.max.dim, (x, 0), {})) == 2
        known = torch.tensor([3.0])
        assert known.constant is not None
        assert cache(aten.neg.default, (known,), {}).shape == (1,)
    assert not cache.layouts


def test_a_view_lies_in_the_memory_of_its_operand() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    calls = [
        (aten.select.int, (0, 0), {}),
        (aten.select.int, (0, 3), {}),
        (aten.slice.Tensor, (1, 2, 6, 2), {}),
        (aten.view.default, ([3, 8],), {}),
        (aten.view.dtype, (torch.int16,), {}),
        (aten.expand.default, ([5, 4, 6],), {}),
    ]
    with mode:
        for x in (torch.ones(4, 6), torch.ones(4, 6)):
            for func, args, kwargs in calls:
                part, expected = cache(func, (x, *args), kwargs), func(x, *args, **kwargs)
                assert _look(part) == _look(expected)
                assert part.untyped_storage()._cdata == x.untyped_storage()._cdata
                assert part.untyped_storage().nbytes() == 4 * 24
        begun = cache(aten.select.int, (x, 0, 1), {})
        assert cache(aten.view.default, (begun, [2, 3]), {}).storage_offset() == 6
    assert len(cache.layouts) == len(calls) + 2


def test_lazy_conjugation_is_no_shape() -> None:
    mode = FakeTensorMode()
    cache = _cache(mode)
    with mode:
        for _ in range(2):
            x = torch.ones(4, dtype=torch.complex64)
            turned = cache(aten._conj.default, (x,), {})
            assert turned.is_conj()
            assert not cache(aten.view.default, (x, [2, 2]), {}).is_conj()
            assert cache(aten.view.default, (turned, [2, 2]), {}).is_conj()


def test_tensors_of_another_mode_are_not_cached() -> None:
    mode = FakeTensorMode()
    cache = _cache(FakeTensorMode())
    with mode:
        x = torch.ones(4)
        assert cache(aten.relu.default, (x,), {}).fake_mode is mode
    assert not cache.layouts
