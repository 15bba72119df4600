"""Graphs and plans as versioned JSON. The data knows nothing of it beyond `save` and `load`."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.v import format_exception, transform_error

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import UNIT, Atom, Product, Reversed, Space, Sum
from depgraph.errors import DocumentError
from depgraph.messages import shortened

VERSION = 1
LONGEST = 2**28
"""So many characters a document has at most. A model of 2,000 operators makes a graph of three million."""
DEEPEST = 50
"""So deep spaces are nested at most: those of real models have fewer than ten levels."""
LARGEST_PRODUCT = 2**63
"""No product of sizes is larger: torch counts with 64 bits. Beyond it a short file could make numbers of millions of digits."""


T = TypeVar("T")


def _space_out(space: Space) -> Any:
    if isinstance(space, Atom):
        return [space.id, space.size]
    if isinstance(space, Reversed):
        return {"reversed": _space_out(space.atom)}
    if isinstance(space, Product):
        return {"product": [_space_out(factor) for factor in space.factors]} if space.factors else 1
    return {"sum": [_space_out(part) for part in space.parts]}


class _NoSpaceError(ValueError):
    """Data that is no space, told in our own words."""


def _space_of_kind(data: Any, kind: Any) -> Any:
    """The space that data say, of the kind that a field has: an atom is a space, but most spaces are no atoms."""
    space = space_of(data)
    if isinstance(kind, type) and not isinstance(space, kind):
        raise _NoSpaceError(f"expected one {kind.__name__.lower()}, got {shortened(repr(data))}")
    return space


def space_of(data: Any, depth: int = 1) -> Any:
    """The space that data of a document say. Raises `ValueError` for others."""
    if depth > DEEPEST:
        raise _NoSpaceError(f"a space that is nested more than {DEEPEST} deep")
    if type(data) is int and data == 1:
        return UNIT
    if isinstance(data, list) and len(data) == 2 and all(type(item) is int for item in data):
        return Atom(*data)
    if isinstance(data, dict) and data.keys() == {"reversed"}:
        atom = space_of(data["reversed"], depth=depth + 1)
        if isinstance(atom, Atom):
            return Reversed(atom)
    if isinstance(data, dict) and data.keys() == {"product"} and isinstance(data["product"], list):
        factors = tuple(space_of(factor, depth=depth + 1) for factor in data["product"])
        size = 1
        for factor in factors:
            size *= max(abs(factor.size), 1)
            if size > LARGEST_PRODUCT:
                raise _NoSpaceError("a product of sizes beyond 64 bits")
        return Product(factors)
    if isinstance(data, dict) and data.keys() == {"sum"} and isinstance(data["sum"], list):
        return Sum(tuple(space_of(part, depth=depth + 1) for part in data["sum"]))
    raise _NoSpaceError(f"not a space: {shortened(repr(data))}")


def _converter(detailed: bool) -> cattrs.Converter:
    """How values are read and written; with `detailed` every problem of a document is told by its place, which takes long."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=detailed)
    structure_tuple = converter._structure_tuple  # it takes any iterable: the characters of a text, the keys of an object

    def listed(value: Any, kind: Any) -> Any:
        if type(value) not in {list, tuple}:
            raise ValueError(f"expected a list, got {shortened(repr(value))}")
        return structure_tuple(value, kind)

    converter.register_structure_hook_func(_is_tuple, listed)
    converter.register_unstructure_hook(IndexSet, str)
    converter.register_structure_hook(IndexSet, lambda text, _: IndexSet.parse(_text(text)))
    converter.register_unstructure_hook_func(_is_space, _space_out)
    converter.register_structure_hook_func(_is_space, _space_of_kind)
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


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text such as '1-3,5', got {shortened(repr(value))}")
    return value


def _number(value: Any, _: Any = None) -> int | float:
    if type(value) not in (int, float):
        raise ValueError(f"expected a number, got {shortened(repr(value))}")
    return value  # type: ignore[no-any-return]


def _strict(kind: type) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}, got {shortened(repr(value))}")
        return value

    return structure


_CONVERTER, _DETAILED = _converter(detailed=False), _converter(detailed=True)
_DETAILS = 2**17
"""Of a document of so many characters every problem is told by its place: each takes time, and a list may hold millions."""


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_LISTED = 10
"""So many problems of a file are told; a damaged one may have thousands."""


def dumps(kind: str, value: Any) -> str:
    """The JSON text of a graph or plan by its fields: format, version, content and the content's digest."""
    return json.dumps(_document(kind, VERSION, _CONVERTER.unstructure(value)), indent=1) + "\n"


def dumps_by_line(kind: str, version: int, value: Any) -> str:
    """The JSON text of a value whose fields are texts and lists: each entry of a list has a line of its own.

    >>> from attrs import frozen
    >>> @frozen
    ... class Sizes:
    ...     of: str
    ...     sizes: tuple[tuple[str, int], ...]
    >>> print(dumps_by_line("sizes", 1, Sizes("a", (("b", 2), ("c", 3)))), end="")
    {
     "format": "depgraph.sizes",
     "version": 1,
     "digest": "439eb791b04b3e9f217ae5d03a379e5d540e5031a50e92598818d44e12dd1c56",
     "content": {
      "of": "a",
      "sizes": [
       ["b", 2],
       ["c", 3]
      ]
     }
    }
    """
    document = _document(kind, version, content_of(value))
    fields = [f"  {json.dumps(name)}: {_by_line(part)}" for name, part in document.pop("content").items()]
    head = [f" {json.dumps(name)}: {json.dumps(part)}" for name, part in document.items()]
    return ",\n".join(("{\n" + head[0], *head[1:], ' "content": {\n' + ",\n".join(fields) + "\n }\n}")) + "\n"


def _by_line(part: Any) -> str:
    if not isinstance(part, list) or not part:
        return json.dumps(part)
    return "[\n" + ",\n".join(f"   {json.dumps(item)}" for item in part) + "\n  ]"


def content_of(value: Any) -> Any:
    """A value as the lists, objects, texts and numbers that stand for it in a document."""
    return json.loads(json.dumps(_CONVERTER.unstructure(value)))


def _document(kind: str, version: int, content: Any) -> dict[str, Any]:
    return {"format": f"depgraph.{kind}", "version": version, "digest": _digest(content), "content": content}


def loads(
    text: str, kind: str, cls: type[T], source: str = "the document", check: Callable[[T], Sequence[str]] | None = None
) -> T:
    """Read what `dumps` wrote; `check` names everything that is wrong with a value whose fields have the right types.

    The text has at most `LONGEST` characters, and its spaces at most `DEEPEST` levels.

    Raises:
        DocumentError: not JSON, too long or too deeply nested, another format or version, or a content that does not match
            its digest or schema.
    """
    return structured(opened(text, kind, source, (VERSION,))[1], kind, cls, source, check)


def opened(text: str, kind: str, source: str, versions: Sequence[int]) -> tuple[int, Any]:
    """Version and content of a document of one of these versions. Raises `DocumentError`, as `loads` does."""
    with _not_too_deep(kind, source):
        return _opened(text, kind, source, versions)


def _opened(text: str, kind: str, source: str, versions: Sequence[int]) -> tuple[int, Any]:
    if len(text) > LONGEST:
        raise DocumentError(f"{source} has more than {LONGEST:,} characters, which no {kind} has. {_fix(kind)}")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DocumentError(f"{source} is not complete JSON ({error}); it is truncated or not a {kind}. {_fix(kind)}") from None
    expected = f"depgraph.{kind}"
    if not isinstance(document, dict) or document.get("format") != expected:
        met = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise DocumentError(
            f"{source}: expected format {expected!r}, met {shortened(repr(met))}. Pass a file that a {kind}'s save() wrote."
        )
    version = document.get("version")
    if type(version) is not int or version not in versions:
        known = f"version {versions[0]}" if len(versions) == 1 else f"versions {' and '.join(map(str, versions))}"
        raise DocumentError(
            f"{source} has schema version {shortened(repr(version))}, this depgraph reads {known}. "
            f"Read it with the depgraph that wrote it, or save the {kind} again."
        )
    content = document.get("content")
    if document.get("digest") != _digest(content):
        raise DocumentError(f"{source} was edited or damaged: its content does not match its digest. {_fix(kind)}")
    return version, content


def structured(
    content: Any, kind: str, cls: type[T], source: str = "the document", check: Callable[[T], Sequence[str]] | None = None
) -> T:
    """The value that a content stands for. Raises `DocumentError`, as `loads` does."""
    with _not_too_deep(kind, source):
        try:
            value = _CONVERTER.structure(content, cls)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001  told in full by the message
            raise invalid(kind, source, _told_of(error, content, cls)) from None
        problems = check(value) if check is not None else ()
        if problems:
            raise invalid(kind, source, problems)
        return value


def invalid(kind: str, source: str, problems: Sequence[str]) -> DocumentError:
    """The error that tells what is wrong with a content."""
    return DocumentError(f"{source} does not hold a valid {kind}: {_listed(problems)}. {_fix(kind)}")


def _fix(kind: str) -> str:
    return f"Save the {kind} again with depgraph."


@contextmanager
def _not_too_deep(kind: str, source: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise DocumentError(
            f"{source} is nested too deeply to be a {kind}. Pass a file that a {kind}'s save() wrote."
        ) from None


def _told_of(error: Exception, content: Any, cls: type) -> Sequence[str]:
    """Every problem of a content, or, of a long one, the first."""
    if len(json.dumps(content)) > _DETAILS:
        return [f"{type(error).__name__}: {error} (the first of its problems)"]
    return _details(content, cls)


def _details(content: Any, cls: type) -> Sequence[str]:
    """Every problem of a content that has some, with its place."""
    try:
        _DETAILED.structure(content, cls)
    except cattrs.BaseValidationError as error:
        return transform_error(error, format_exception=_told)
    raise AssertionError("a content is valid with details and invalid without them")


def _told(error: BaseException, kind: type | None) -> str:
    """What is wrong with a value: cattrs says it for all but spaces."""
    return str(error) if isinstance(error, _NoSpaceError) else format_exception(error, kind)


def _listed(problems: Sequence[str]) -> str:
    """The first problems, each by its beginning, and how many more there are."""
    shown = "; ".join(shortened(problem) for problem in problems[:_LISTED])
    return shown + (f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else "")


def write(path: str | Path, kind: str, value: Any) -> None:
    """Write a document whole or not at all, as `write_whole` does."""
    write_text(path, dumps(kind, value))


def write_text(path: str | Path, text: str) -> None:
    """Write the text of a document whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: str | Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: readers meet the old file or the new one, also after a crash.

    Each call has a temporary file of its own beside the target, so that two threads may save to one path. A symbolic link
    stays one, and a file that is replaced keeps its permissions.
    """
    target, temporary = _beside(path)
    try:
        with _named(path, temporary):
            write_new(temporary, write_to)
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole_folder(path: str | Path, fill: Callable[[Path], object], *, replace: bool = False) -> None:
    """Fill a folder whole or not at all, likewise. It must not exist yet, or be empty, unless it is to be replaced.

    All that `fill` writes is on the disk when the folder takes its name. A folder that is replaced changes places with the new
    one in one step, where the system can do that. Elsewhere it stands aside for a moment, and stays there where the process is
    killed in between.
    """
    target, temporary = _beside(path)
    try:
        with _named(path, temporary):
            temporary.mkdir()
            fill(temporary)
            for place in (*temporary.rglob("*"), temporary):
                _sync(place)
            put_folder(temporary, target, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    """Return when a file's content, or a folder's, is on the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        return
    number = os.open(path, os.O_RDONLY if hasattr(os, "O_DIRECTORY") else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def put_folder(temporary: Path, target: Path, replace: bool) -> None:
    """Give a folder its name; one that it replaces is at the temporary place then, or gone, and back where that fails."""
    if not (replace and target.exists()):
        os.replace(temporary, target)
        return
    if exchanged(temporary, target):
        return
    old = temporary.with_suffix(".old")
    try:
        target.rename(old)
        temporary.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def exchanged(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; false where the system or the file system has no such step."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system than Linux, or an old library
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""


def write_new(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Write a file that does not exist yet; when this returns, its content is on the disk."""
    with path.open("xb") as file:
        write_to(file)
        file.flush()
        os.fsync(file.fileno())


def _beside(path: str | Path) -> tuple[Path, Path]:
    """The place that a path leads to, and a temporary one beside it, of this call's own."""
    target = Path(os.path.realpath(path))
    return target, target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")


@contextmanager
def _named(path: str | Path, temporary: Path) -> Iterator[None]:
    """Let errors of the system name the file that was asked for, and not the one that it is for a moment."""
    try:
        yield
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
            del error.filename2
        raise


def read(path: str | Path, kind: str, cls: type[T], check: Callable[[T], Sequence[str]] | None = None) -> T:
    """Read a document from a file, as `loads` does."""
    return loads(read_text(path, kind), kind, cls, str(path), check)


def read_text(path: str | Path, kind: str) -> str:
    """The text of a document; of a longer file no more is read than shows that it is too long."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(LONGEST + 1)
    except UnicodeDecodeError:
        raise DocumentError(f"{path} is no text; pass a file that a {kind}'s save() wrote.") from None
