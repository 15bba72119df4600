"""The transcripts of docs/cli.md are what the command prints."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from depgraph.cli.commands import depgraph

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def played(text):
    """A page with what its commands print now: those in blocks of ``console``, run in the current folder.

    The first block of Python is the file mymodels.py.
    """
    Path("mymodels.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    code = 0

    def block(found):
        nonlocal code
        shown = []
        for line in re.findall(r"^\$ .*$", found[1], re.MULTILINE):
            words = shlex.split(line.removeprefix("$ "))
            output = ""
            if words[0] == "depgraph":
                result = CliRunner().invoke(depgraph, words[1:])
                output, code = result.output, result.exit_code
            elif words == ["python", "mymodels.py"]:
                runpy.run_path("mymodels.py", run_name="__main__")
            else:
                assert words == ["echo", "$?"], f"the page runs no {words[0]}"
                output = f"{code}\n"
            shown.append(f"{line}\n{output}")
        return f"```console\n{''.join(shown)}```"

    return re.sub(r"```console\n(.*?)```", block, text, flags=re.DOTALL)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """A folder of its own, from which mymodels is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mymodels", raising=False)
    yield tmp_path
    sys.modules.pop("mymodels", None)


def test_the_page_shows_what_the_command_prints(empty_folder):
    """All transcripts, in order, with exit codes and the lines on stderr."""
    text = PAGE.read_text()
    assert played(text) == text
    assert text.count("$ depgraph") >= len(depgraph.commands) - 1


def test_another_output_is_seen(empty_folder):
    """The negative control: a page with a changed figure is not what is printed."""
    text = PAGE.read_text()
    wrong = text.replace("10,250 parameters", "10,251 parameters", 1)
    assert wrong != text and played(wrong) == text


def test_the_page_names_every_command():
    """And every exit code."""
    text = PAGE.read_text()
    assert all(f"`{name}" in text for name in depgraph.commands)
    assert all(f"| {code} |" in text for code in range(9))
