"""The site leaves out no page and no public name."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import depgraph as dg

DOCS = Path(__file__).parents[2] / "docs"
SPEC = spec_from_file_location("site_configuration", DOCS / "conf.py")
site = module_from_spec(SPEC)
SPEC.loader.exec_module(site)


def listed():
    """What the contents name, with `recipes/*` and `reference/*` for all of a folder."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.split() if not line.startswith(":")]


def test_every_page_is_in_the_contents():
    """Sphinx warns of a page that no contents list; this says so without building the site."""
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert pages - set(listed()) == set()
    assert {"recipes/*", "reference/*"} <= set(listed())


def test_no_page_takes_the_name_of_one_that_sphinx_writes():
    """A page called search would be overwritten by the one that answers the search box, without a warning."""
    assert not {path.stem for path in DOCS.glob("*.md")} & {"search", "genindex", "py-modindex", "modindex", "reference"}


def test_examples_end_where_their_last_line_ends():
    """Doctest wants an empty line behind the last output; a reader doesn't."""
    source = ["```python\n>>> 1\n1\n\n```\n\ntext\n"]
    site.for_readers(None, "page", source)
    assert source == ["```python\n>>> 1\n1\n```\n\ntext\n"]


def test_every_public_name_has_a_text_and_a_place():
    """Names of the top and of all shelves, and the public methods and properties of their classes."""
    pages = site.shelves()
    assert site.undocumented(pages) == []
    assert set(pages) == {"depgraph", *dg._SHELVES}
    for page, module in pages.items():
        text = site.written(page, module)
        assert [
            name for name in site.names_of(module) if not re.search(rf"^\.\. \S+:: (\S+\.)?{name}$", text, re.MULTILINE)
        ] == []


def test_names_without_a_text_are_refused(tmp_path, monkeypatch):
    """The negative control: a value, a function, a class and a method of which nothing is said."""
    source = (
        "__all__ = ['SILENT', 'SAID', 'silent', 'Bare', 'Half']\nSILENT = 1\nSAID = 2\n'''What is said.'''\n"
        "def silent(): ...\nclass Bare: ...\nclass Half:\n    '''Said.'''\n    def silent(self): ...\n    def _own(self): ...\n"
    )
    (tmp_path / "shelf_without_texts.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    shelf = __import__("shelf_without_texts")
    assert isinstance(shelf, ModuleType)
    assert site.undocumented({"shelf": shelf}) == ["shelf.SILENT", "shelf.silent", "shelf.Bare", "shelf.Half.silent"]


@pytest.mark.needs("sphinx")
def test_a_name_without_a_text_ends_the_build(monkeypatch):
    """Before any page is written."""
    from sphinx.errors import ExtensionError

    monkeypatch.setattr(site, "undocumented", lambda pages: ["criteria.Silent"])
    monkeypatch.setattr(site, "REFERENCE", None)
    with pytest.raises(ExtensionError, match=r"public names without a docstring: criteria\.Silent"):
        site.write_reference(None)


@pytest.mark.needs("sphinx")
def test_a_name_that_the_reference_lacks_ends_the_build():
    """The finished index is asked for all public names; with all of them it is content."""
    from sphinx.errors import ExtensionError

    names = {site.indexed(page, module, name) for page, module in site.shelves().items() for name in site.names_of(module)}

    def index_of(known):
        return SimpleNamespace(domains=SimpleNamespace(python_domain=SimpleNamespace(objects=known)))

    site.check_reference(None, index_of(names))
    with pytest.raises(ExtensionError, match=r"leaves out: depgraph\.criteria\.LAMP$"):
        site.check_reference(None, index_of(names - {"depgraph.criteria.LAMP"}))
