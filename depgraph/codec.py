"""Graphs and plans as versioned JSON. The data knows nothing of it beyond `save` and `load`."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.v import transform_error

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import UNIT, Atom, Product, Reversed, Space, Sum
from depgraph.errors import DocumentError

VERSION = 1


T = TypeVar("T")


def _space_out(space: Space) -> Any:
    if isinstance(space, Atom):
        return [space.id, space.size]
    if isinstance(space, Reversed):
        return {"reversed": _space_out(space.atom)}
    if isinstance(space, Product):
        return {"product": [_space_out(factor) for factor in space.factors]} if space.factors else 1
    return {"sum": [_space_out(part) for part in space.parts]}


def _space_in(data: Any, _: Any = None) -> Any:
    if type(data) is int and data == 1:
        return UNIT
    if isinstance(data, list) and len(data) == 2 and all(type(item) is int for item in data):
        return Atom(*data)
    if isinstance(data, dict) and data.keys() == {"reversed"}:
        atom = _space_in(data["reversed"])
        if isinstance(atom, Atom):
            return Reversed(atom)
    if isinstance(data, dict) and data.keys() == {"product"}:
        return Product(tuple(_space_in(factor) for factor in data["product"]))
    if isinstance(data, dict) and data.keys() == {"sum"}:
        return Sum(tuple(_space_in(part) for part in data["sum"]))
    raise ValueError(f"not a space: {data!r}")


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(IndexSet, str)
    converter.register_structure_hook(IndexSet, lambda text, _: IndexSet.parse(_text(text)))
    converter.register_unstructure_hook_func(_is_space, _space_out)
    converter.register_structure_hook_func(_is_space, _space_in)
    for plain in (bool, int, str):
        converter.register_structure_hook(plain, _strict(plain))
    converter.register_structure_hook(float, _number)
    converter.register_unstructure_hook_factory(_has_late_fields, lambda cls: _without_unused(cls, converter))
    return converter


LATE = {"late": True}
"""Metadata of a field that came after version 1: it is written where it is used, so that other files stay as they were."""


def _has_late_fields(kind: Any) -> bool:
    return attrs.has(kind) and any(LATE.items() <= item.metadata.items() for item in attrs.fields(kind))


def _without_unused(cls: type, converter: cattrs.Converter) -> Any:
    late = [item.name for item in attrs.fields(cls) if LATE.items() <= item.metadata.items()]
    overrides: dict[str, Any] = {name: override(omit_if_default=True) for name in late}
    return make_dict_unstructure_fn(cls, converter, **overrides)


def _is_space(kind: Any) -> bool:
    return kind in {Atom, Reversed, Product, Sum} or kind == Space


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text such as '1-3,5', got {value!r}")
    return value


def _number(value: Any, _: Any = None) -> int | float:
    if type(value) not in (int, float):
        raise ValueError(f"expected a number, got {value!r}")
    return value  # type: ignore[no-any-return]


def _strict(kind: type) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}, got {value!r}")
        return value

    return structure


_CONVERTER = _converter()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_LISTED = 10
"""So many problems of a file are told; a damaged one may have thousands."""


def _short(value: Any, written: Callable[[Any], str] = repr) -> str:
    """What a file holds, as part of a message: its beginning, where it is long."""
    text = written(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def dumps(kind: str, value: Any) -> str:
    """The JSON text of a graph or plan: format, version, content and the content's digest."""
    content = _CONVERTER.unstructure(value)
    document = {"format": f"depgraph.{kind}", "version": VERSION, "digest": _digest(content), "content": content}
    return json.dumps(document, indent=1) + "\n"


def loads(
    text: str, kind: str, cls: type[T], source: str = "the document", check: Callable[[T], Sequence[str]] | None = None
) -> T:
    """Read what `dumps` wrote; `check` names everything that is wrong with a value whose fields have the right types.

    Raises:
        DocumentError: not JSON, another format or version, or a content that does not match its digest or schema.
    """
    fix = f"Save the {kind} again with depgraph."
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DocumentError(f"{source} is not complete JSON ({error}); it is truncated or not a {kind}. {fix}") from None
    except RecursionError:
        raise DocumentError(
            f"{source} is nested too deeply to be a {kind}. Pass a file that a {kind}'s save() wrote."
        ) from None
    expected = f"depgraph.{kind}"
    if not isinstance(document, dict) or document.get("format") != expected:
        met = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise DocumentError(
            f"{source}: expected format {expected!r}, met {_short(met)}. Pass a file that a {kind}'s save() wrote."
        )
    if document.get("version") != VERSION:
        raise DocumentError(
            f"{source} has schema version {_short(document.get('version'))}, this depgraph reads version {VERSION}. "
            f"Read it with the depgraph that wrote it, or save the {kind} again."
        )
    content = document.get("content")
    try:
        digest = _digest(content)
    except RecursionError:
        raise DocumentError(
            f"{source} is nested too deeply to be a {kind}. Pass a file that a {kind}'s save() wrote."
        ) from None
    if document.get("digest") != digest:
        raise DocumentError(f"{source} was edited or damaged: its content does not match its digest. {fix}")
    try:
        value = _CONVERTER.structure(content, cls)
    except Exception as error:
        raise DocumentError(f"{source} does not hold a valid {kind}: {_listed(transform_error(error))}. {fix}") from error
    problems = check(value) if check is not None else ()
    if problems:
        raise DocumentError(f"{source} does not hold a valid {kind}: {_listed(problems)}. {fix}")
    return value


def _listed(problems: Sequence[str]) -> str:
    """The first problems, each by its beginning, and how many more there are."""
    shown = "; ".join(_short(problem, str) for problem in problems[:_LISTED])
    return shown + (f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else "")


def write(path: str | Path, kind: str, value: Any) -> None:
    """Write a document whole or not at all: readers meet the old file or the new one, also after a crash.

    Each call has a temporary file of its own beside the target, so that two threads may save to one path. A symbolic link
    stays one, and a file that is replaced keeps its permissions.
    """
    text = dumps(kind, value)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path, kind: str, cls: type[T], check: Callable[[T], Sequence[str]] | None = None) -> T:
    """Read a document from a file, as `loads` does."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DocumentError(f"{path} is no text; pass a file that a {kind}'s save() wrote.") from None
    return loads(text, kind, cls, str(path), check)
