"""Builds the wheel and the source distribution, looks into both, and uses each in an empty environment.

    python .ci/package.py            # tox run -e package
    python .ci/package.py --extras   # tox run -e extras: the wheel with each extra alone

Raises `AssertionError` or `CalledProcessError` at the first thing that is wrong.
"""

import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import extras
from running import ROOT, run

BESIDE = {
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "constraints.txt",
    "pyproject.toml",
    "tox.ini",
}
DATA = {"depgraph/py.typed", "depgraph/plans/plan.schema.json"}
USE = """
import importlib.metadata, importlib.resources, json, pathlib, sys
import depgraph
assert "torch" not in sys.modules, "import depgraph loads torch"
home = pathlib.Path(depgraph.__file__).parent
assert home.is_relative_to(sys.prefix), home
assert importlib.metadata.version("depgraph") == depgraph.__version__
json.loads((importlib.resources.files("depgraph.plans") / "plan.schema.json").read_text())
for name in depgraph._SHELVES:
    if name not in ("hf", "testing"):  # these need an extra
        getattr(depgraph, name)
print("depgraph", depgraph.__version__, "with torch", __import__("torch").__version__)
"""


def sources() -> set[str]:
    """The package's files, by their paths from the root."""
    files = (path for path in (ROOT / "depgraph").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def check_wheel(wheel: Path) -> None:
    """All of the package, its data included, and beside it only what describes it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert sources() >= DATA
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - described == sources(), names - described ^ sources()
    assert any(name.endswith("licenses/LICENSE") for name in described), described


def check_sdist(sdist: Path) -> None:
    """The package, its tests and pages, and the files beside them."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = (sources() | BESIDE | {"tests/conftest.py", "docs/conf.py", "docs/guide.md"}) - names
    assert not missing, missing


def check_use(artefact: Path, folder: Path) -> None:
    """Installed alone, it does what the README shows; its dependencies are those that it names."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", artefact)
    run(python, "-m", "pip", "check")
    run(python, "-c", USE, where=folder)
    run(python, "-m", "doctest", ROOT / "README.md", where=folder)


def main() -> None:
    """Everything, in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
        check_wheel(wheel)
        check_sdist(sdist)
        for artefact in (wheel, sdist):
            check_use(artefact, folder / artefact.suffix.strip("."))
            print(f"{artefact.name}: {artefact.stat().st_size:,} bytes, installed and used")
        if "--extras" in sys.argv[1:]:
            extras.check(folder / "whl", wheel, folder)


if __name__ == "__main__":
    main()
