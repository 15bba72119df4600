"""The site: `sphinx-build -W docs build/site`. Its reference is made from the shelves; a name that it lacks ends the build."""

import ast
import inspect
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

import depgraph

project, author, copyright = "depgraph", "The depgraph developers", "The depgraph developers, MIT licence"
version = release = depgraph.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["benchmarks", "examples"]
html_theme, html_title = "furo", f"depgraph {release}"
html_static_path, html_css_files = ["style"], ["wide.css"]
html_copy_source, html_show_sphinx = False, False
myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures would not fit a line; what arguments are stands in the docstrings
napoleon_use_ivar = True
napoleon_google_docstring = True
toc_object_entries_show_parents = "hide"

REFERENCE = Path(__file__).parent / "reference"


def shelves() -> dict[str, ModuleType]:
    """The pages of the reference: the top, and the module of each shelf."""
    return {"depgraph": depgraph, **{name: import_module(home) for name, home in sorted(depgraph._SHELVES.items())}}


def names_of(module: ModuleType) -> list[str]:
    """The public names of a page, without the shelves and what is no part of the interface."""
    return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name)) and not name.startswith("__")]


def text_of(module: ModuleType, name: str) -> str:
    """What documents a name: a docstring, or the text right below a value, wherever the value was imported from."""
    value, body = getattr(module, name), ast.parse(inspect.getsource(module)).body
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__doc__ or ""
    for statement, below in pairwise(body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if name in {target.id for target in targets if isinstance(target, ast.Name)} and isinstance(below, ast.Expr):
            return str(ast.literal_eval(below.value))
    for statement in ast.walk(ast.Module(body, [])):
        if isinstance(statement, ast.ImportFrom) and statement.module and name in {alias.name for alias in statement.names}:
            return text_of(import_module(statement.module), name)
    return ""


def undocumented(pages: dict[str, ModuleType]) -> list[str]:
    """Public names without a text, public methods and properties of public classes among them."""
    missing = []
    for page, module in pages.items():
        for name in names_of(module):
            missing += [] if text_of(module, name).strip() else [f"{page}.{name}"]
            if inspect.isclass(value := getattr(module, name)):
                own = [key for key, member in vars(value).items() if inspect.isroutine(member) or isinstance(member, property)]
                texts = {key: inspect.getdoc(getattr(value, key)) for key in own if not key.startswith("_")}
                missing += [f"{page}.{name}.{key}" for key, text in texts.items() if not text]
    return missing


def entry(page: str, module: ModuleType, name: str) -> str:
    """The directive for one name; what stands at the top as well is in the index once."""
    value, full = getattr(module, name), page_name(page, name)
    if page_name(page, name) != (top := indexed(page, module, name)):
        return f".. py:data:: {name}\n   :no-index:\n\n   The same as :py:obj:`{top}`."
    if inspect.isclass(value) and issubclass(value, Exception):
        return f".. autoexception:: {full}\n   :show-inheritance:"
    if inspect.isclass(value):
        return f".. autoclass:: {full}\n   :members:"
    if inspect.isfunction(value):
        return f".. autofunction:: {full}"
    text = indent(inspect.cleandoc(text_of(module, name)), "   ")
    return f".. py:data:: {name}\n   :module: {full.removesuffix('.' + name)}\n\n{text}"


def page_name(page: str, name: str) -> str:
    """What a user writes, with the package's whole name."""
    return f"depgraph.{name}" if page == "depgraph" else f"depgraph.{page}.{name}"


def indexed(page: str, module: ModuleType, name: str) -> str:
    """The name under which the index has it."""
    at_top = name in depgraph.__all__ and getattr(depgraph, name) is getattr(module, name)
    return page_name("depgraph" if at_top else page, name)


def written(page: str, module: ModuleType) -> str:
    """The text of a page of the reference."""
    title = "dg" if page == "depgraph" else f"dg.{page}"
    parts = [title + "\n" + "=" * len(title), f".. automodule:: {module.__name__}\n   :no-index:"]
    return "\n\n".join([*parts, *(entry(page, module, name) for name in names_of(module))]) + "\n"


def write_reference(app: Any) -> None:
    """Writes the pages, if every name has something to show.

    Raises:
        sphinx.errors.ExtensionError: names without a docstring.
    """
    from sphinx.errors import ExtensionError

    pages = shelves()
    if missing := undocumented(pages):
        raise ExtensionError("public names without a docstring: " + ", ".join(missing))
    REFERENCE.mkdir(exist_ok=True)
    texts = {f"{page}.rst": written(page, module) for page, module in pages.items()}
    for stale in {path.name for path in REFERENCE.iterdir()} - set(texts):
        (REFERENCE / stale).unlink()
    for name, text in texts.items():
        path = REFERENCE / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def for_readers(app: Any, name: str, source: list[str]) -> None:
    """Links lead to pages of the site, and examples end without the empty line that doctest wants."""
    source[0] = source[0].replace("](../SECURITY.md)", "](security.md)").replace("\n\n```\n", "\n```\n")


def is_field(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples are left out: their class's text has them, with more than a number."""
    return True if (inspect.getdoc(value) or "").startswith("Alias for field number") else None


def check_reference(app: Any, env: Any) -> None:
    """Asks the built index for every public name.

    Raises:
        sphinx.errors.ExtensionError: names that no page documents.
    """
    from sphinx.errors import ExtensionError

    known = env.domains.python_domain.objects
    names = [indexed(page, module, name) for page, module in shelves().items() for name in names_of(module)]
    if missing := sorted(set(names) - set(known)):
        raise ExtensionError("public names that the reference leaves out: " + ", ".join(missing))


def setup(app: Any) -> None:
    """Writes the reference before the pages are read, and checks it afterwards."""
    from sphinx.domains.python import PyObject

    for kind in PyObject.doc_field_types:
        kind.label = "Attributes" if kind.name == "variable" else kind.label  # what docstrings call them
    app.connect("builder-inited", write_reference)
    app.connect("source-read", for_readers)
    app.connect("include-read", lambda app, path, parent, source: for_readers(app, parent, source))
    app.connect("autodoc-skip-member", is_field)
    app.connect("env-check-consistency", check_reference)
