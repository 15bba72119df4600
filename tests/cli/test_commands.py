"""The command: what each subcommand prints, writes and exits with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import depgraph as dg
from depgraph.cli.commands import CRITERIA, ENGINES, depgraph
from depgraph.cli.ending import CODES
from depgraph.errors import DepgraphError

FACTORY = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

def broken():
    raise ValueError("no weights today")

def number():
    return 3

def sized(width):
    return torch.nn.Linear(width, 2)

def leaving():
    raise SystemExit(0)

def stopped():
    raise KeyboardInterrupt
"""


def run(*args):
    """The result of a command line."""
    return CliRunner().invoke(depgraph, [*map(str, args)])


def told(result, code):
    """The one line that a failure tells, with the code that it is to have."""
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("depgraph: "), result.stderr
    return lines[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module, a graph, two plans, a checkpoint, scores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "factory_of_tests", raising=False)
    Path("factory_of_tests.py").write_text(FACTORY)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = dg.trace(model, torch.zeros(1, 4))
    graph.save("graph.json")
    dg.cut(graph, "0.weight", [2, 6], dim=0).save("plan.json")
    dg.cut(graph, "0.weight", [2, 3, 4], dim=0).save("other.json")
    torch.save(model.state_dict(), "model.pt")
    Path("scores.json").write_text(json.dumps({"0.weight:0": list(range(8))}))
    yield tmp_path
    sys.modules.pop("factory_of_tests", None)


@pytest.mark.parametrize("form", [(), ("--json",), ("--markdown",), ("--html",)])
def test_show(folder, form):
    """A graph, a plan, and a plan with its graph, in each form."""
    outputs = [run("show", *files, *form) for files in (["graph.json"], ["plan.json"], ["plan.json", "--graph", "graph.json"])]
    assert all(result.exit_code == 0 for result in outputs)
    if form == ("--json",):
        graph, plan, both = (json.loads(result.stdout) for result in outputs)
        assert graph["params"] == both["params"] == 58 and both["params_after"] == 44
        assert plan["cuts"] == [{"group": "0.weight:0", "size": 8, "count": 2, "removed": "2,6"}]
    elif not form:
        loaded, plan = dg.Graph.load("graph.json"), dg.Plan.load("plan.json")
        assert [result.stdout for result in outputs] == [f"{text}\n" for text in (loaded, plan, plan.summary(loaded))]


def test_why(folder):
    """As `dg.why` says it; for a plan, why it is refused."""
    graph, plan = dg.Graph.load("graph.json"), dg.Plan.load("plan.json")
    assert run("why", "graph.json", "0.out_features").stdout == f"{dg.why(graph, '0.out_features')}\n"
    plan.apply(graph).save("small.json")
    assert "another graph" in run("why", "small.json", "--plan", "plan.json").stdout
    assert json.loads(run("why", "graph.json", "0.weight:0", "--json").stdout)["lines"][0].startswith("group 0.weight:0")
    assert "did you mean '0.weight'" in told(run("why", "graph.json", "0.wieght"), 4)
    assert "give a path" in told(run("why", "graph.json"), 2)


def test_diff(folder):
    """Exit code 1 where two plans differ, 0 where they do not."""
    result = run("diff", "plan.json", "other.json")
    assert result.exit_code == 1 and "only the first removes 6; only the second removes 3-4" in result.stdout
    same = run("diff", "plan.json", "plan.json", "--json")
    assert same.exit_code == 0 and json.loads(same.stdout)["equal"]
    plan = dg.Plan.load("plan.json")
    dg.cut(plan.apply(dg.Graph.load("graph.json")), "0.weight", [0], dim=0).save("next.json")
    told(run("diff", "plan.json", "next.json"), 6)


def test_check(folder):
    """Against a graph, a checkpoint, a model and an engine; exit code 1 where one of them does not fit."""
    fits = run("check", "plan.json", "--graph", "graph.json", "--checkpoint", "model.pt", "--model", "factory_of_tests:net")
    assert fits.exit_code == 0 and fits.stdout.count(": fits") == 4
    assert run("apply", "plan.json", "model.pt", "small.pt").exit_code == 0
    other = run("check", "plan.json", "--checkpoint", "small.pt", "--json")
    checks = json.loads(other.stdout)["checks"]
    assert other.exit_code == 1 and [item["ok"] for item in checks] == [True, False]
    assert checks[1]["problems"][0] == "'0.bias': expected size 8 in dimension 0, met shape (6,)"
    engine = run("check", "graph.json", "--engine", "gguf", "--set", "format=q8_0")
    assert engine.exit_code == 1 and "a multiple of 32" in engine.stdout
    assert run("check", "graph.json", "--engine", "onnxruntime", "--set", "multiple=4").exit_code == 0
    assert "--graph" in told(run("check", "plan.json", "--engine", "gguf"), 2)
    assert "give --engine" in told(run("check", "graph.json"), 2)


def test_apply_needs_no_model(folder):
    """A checkpoint goes in and one comes out, that of the pruned model; a prefix of its names is looked through."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.load_state_dict(torch.load("model.pt"))
    plan = dg.Plan.load("plan.json")
    assert run("apply", "plan.json", "model.pt", "small.pt").exit_code == 0
    small = dg.execute(plan, model)
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in torch.load("small.pt").items())
    torch.save({f"net.{name}": tensor for name, tensor in model.state_dict().items()}, "longer.pt")
    assert "names begin with 'net.'" in told(run("apply", "plan.json", "longer.pt", "short.pt"), 6)
    assert run("apply", "plan.json", "longer.pt", "short.pt", "--strip-prefix", "net.").exit_code == 0
    assert not Path("none.pt").exists() and told(run("apply", "plan.json", "none.pt", "shorter.pt"), 3)


def test_trace_and_plan(folder):
    """A factory is traced and planned; the files are those that the library makes."""
    traced = run("trace", "factory_of_tests:net", "-i", "1x4", "-o", "traced.json")
    assert traced.exit_code == 0 and dg.Graph.load("traced.json") == dg.Graph.load("graph.json")
    planned = run(
        "plan", "factory_of_tests:net", "-i", "1x4", "--ratio", "0.25", "-o", "made.json", "--save-graph", "base.json"
    )
    assert planned.exit_code == 0 and planned.stderr.splitlines() == ["wrote base.json", "wrote made.json"]
    made = dg.Plan.load("made.json")
    assert made.base == dg.Graph.load("base.json").fingerprint and len(made.removed["0.weight:0"]) == 2
    assert "exists; give --force" in told(run("trace", "factory_of_tests:net", "-i", "1x4", "-o", "traced.json"), 5)
    again = run("trace", "factory_of_tests:net", "-i", "input=1x4", "-o", "traced.json", "--force")
    assert again.exit_code == 0


def test_plan_from_files(folder):
    """A graph with scores is planned without a model; patterns, limits and engines are options."""
    result = run("plan", "graph.json", "--scores", "scores.json", "--params", "40", "--json", "-o", "made.json")
    assert json.loads(result.stdout)["params_after"] == 37 and str(dg.Plan.load("made.json").removed["0.weight:0"]) == "0-2"
    limited = run("plan", "graph.json", "--scores", "scores.json", "--ratio", "0:out=0.5", "--min-width", "6")
    assert "8      6" in limited.stdout
    line = ("plan", "graph.json", "--scores", "scores.json", "--ratio", "0.4")
    for multiple, after in ((1, 5), (3, 6), (5, 5)):
        preset = run(*line, "--engine", "onnxruntime", "--set", f"multiple={multiple}", "--json")
        assert preset.exit_code == 0, preset.stderr
        assert json.loads(preset.stdout)["modules"][0]["tensors"][0]["axes"][0]["after"] == after
    assert "nothing can be removed" in told(run(*line, "--engine", "onnxruntime", "--set", "multiple=4"), 5)
    assert "give --scores" in told(run("plan", "graph.json", "--ratio", "0.5"), 5)
    assert "--macs" in told(run("plan", "graph.json", "--scores", "scores.json"), 5)
    assert "out of reach" in told(run("plan", "graph.json", "--scores", "scores.json", "--params", "0.01"), 5)
    assert "goes with --engine" in told(run("plan", "graph.json", "--ratio", "0.5", "--set", "a=1"), 5)
    Path("scores.json").write_text('{"0.weight:0": "high"}')
    assert "lists of numbers" in told(run("plan", "graph.json", "--scores", "scores.json", "--ratio", "0.5"), 3)


def test_weights_are_loaded(folder):
    """Scores are those of the checkpoint, not of the factory's own weights."""
    state = torch.load("model.pt")
    state["0.weight"][3] = state["0.bias"][3] = 0
    state["2.weight"][:, 3] = 0
    torch.save(state, "zeroed.pt")
    result = run("plan", "factory_of_tests:net", "-i", "1x4", "--ratio", "0.125", "--weights", "zeroed.pt", "-o", "made.json")
    assert result.exit_code == 0 and str(dg.Plan.load("made.json").removed["0.weight:0"]) == "3"


@pytest.fixture
def wrong(folder):
    """The folder with files that are damaged or of another kind."""
    dg.trace(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), torch.zeros(1, 4)).save("foreign.json")
    dg.cut(dg.Graph.load("foreign.json"), "0.weight", [1], dim=0).save("foreign_plan.json")
    for whole in ("graph.json", "plan.json", "scores.json", "model.pt"):
        content = Path(whole).read_bytes()
        Path(f"half_{whole}").write_bytes(content[: len(content) // 2])
    Path("latin.json").write_bytes('{"format": "depgraph.graph", "é": 1}'.encode("latin1"))
    Path("deep.json").write_text('{"format": "depgraph.graph", "version": ' + "[" * 100_000)
    Path("long.json").write_text('{"format": "depgraph.plan", "version": ' + "9" * 5000 + "}")
    Path("nan.json").write_text('{"0.weight:0": [NaN, 1, 1, 1, 1, 1, 1, 1]}')
    Path("bad.safetensors").write_bytes(b"\xff" * 100)
    Path("unreadable.py").write_text("def net(:")
    Path("empty").mkdir()
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text('{"model_type": "no_such_model"}')
    Path("half").mkdir()
    Path("half/config.json").write_text('{"model_ty')
    return folder


TRACE = ("trace", "factory_of_tests:net")
RATIO = ("plan", "factory_of_tests:net", "-i", "1x4", "--ratio", "0.5")
WRONG = {
    ("show", "empty"): (3, "depgraph: empty: Is a directory"),
    ("show", "half_graph.json"): (3, "is truncated or not a graph"),
    ("show", "half_plan.json"): (3, "is truncated or not a plan"),
    ("show", "latin.json"): (3, "neither a graph nor a plan"),
    ("show", "deep.json"): (3, "nested too deeply"),
    ("show", "long.json"): (3, "not complete JSON"),
    ("why", "graph.json", "role:chanel"): (4, "did you mean 'role:channel'?"),
    ("why", "graph.json", "0.weight:7"): (5, "has 2 dimensions"),
    ("why", "graph.json", f"0.weight:{9**40}"): (5, "has 2 dimensions"),
    ("diff", "plan.json", "foreign_plan.json"): (6, "different graphs"),
    ("check", "plan.json", "--checkpoint", "nothing.pt"): (3, "depgraph: nothing.pt: No such file"),
    ("check", "plan.json", "--checkpoint", "half_model.pt"): (3, "is damaged"),
    ("check", "plan.json", "--checkpoint", "bad.safetensors"): (3, "is damaged"),
    ("check", "plan.json", "--model", "factory_of_tests:sized"): (5, "takes arguments (missing a required argument: 'width')"),
    ("check", "graph.json", "--engine", "vllm", "--set", "tensor_parallel=0"): (5, "at least 1, met 0"),
    ("apply", "plan.json", "model.pt", "model.pt"): (5, "model.pt exists; give --force"),
    ("apply", "plan.json", "model.pt", "empty"): (5, "empty is a folder"),
    ("apply", "plan.json", "model.pt", "none/small.pt"): (3, "depgraph: none/small.pt: No such file"),
    ("apply", "plan.json", "model.pt", "small", "--max-shard-size", "5XB"): (5, "met '5XB'"),
    ("apply", "foreign_plan.json", "model.pt", "small.pt"): (6, "does not fit this checkpoint"),
    ("trace", "factory_of_tests:sized", "-i", "1x4"): (5, "name a function that needs none, or a module"),
    ("trace", "factory_of_tests:leaving", "-i", "1x4"): (8, "SystemExit at factory_of_tests.py:18"),
    ("trace", "factory_of_tests:stopped", "-i", "1x4"): (130, "interrupted"),
    ("trace", "unreadable:net", "-i", "1x4"): (8, "SyntaxError at unreadable.py:1"),
    ("trace", ".:net", "-i", "1x4"): (5, "expected module:factory"),
    (*TRACE, "-i", f"1x{9**40}"): (5, "too large for the memory"),
    (*TRACE, "-i", f"4x{10**13}"): (5, "too large for the memory"),
    (*TRACE, "-i", "input=1x4", "-i", "input=1x4"): (5, "one --input for each name"),
    (*TRACE, "-i", "1x4", "-o", "none/graph.json"): (3, "depgraph: none/graph.json: No such file"),
    (*TRACE, "-i", "1x4", "-o", "empty", "--force"): (3, "depgraph: empty: Is a directory"),
    ("trace", "foreign"): (3, "is no folder of transformers"),
    ("trace", "half"): (3, "is no folder of transformers"),
    (*RATIO[:-1], "nan"): (5, "met nan"),
    (*RATIO[:-1], "role:chanel=0.5"): (4, "did you mean 'role:channel'?"),
    (*RATIO, "--weights", "bad.safetensors"): (3, "is damaged"),
    (*RATIO, "--weights", "half_model.pt"): (3, "is no state dict"),
    (*RATIO, "--scores", "half_scores.json"): (3, "is no JSON"),
    (*RATIO, "--scores", "nan.json"): (3, "lists of numbers"),
    ("report", "graph.json", "--plan", "foreign_plan.json", "-o", "report.html"): (6, "another graph"),
    ("report", "graph.json", "-o", "none/report.html"): (3, "depgraph: none/report.html: No such file"),
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: " ".join(line)[:60])
def test_wrong_use_is_told_in_one_line(wrong, line):
    """Damaged and foreign files, places that cannot be written to, numbers without end; nothing is left behind."""
    before = sorted(wrong.rglob("*"))
    code, text = WRONG[line]
    assert text in told(run(*line), code)
    assert [path for path in sorted(wrong.rglob("*")) if path not in before and "__pycache__" not in path.parts] == []


def test_a_checkpoint_is_written_over_when_told_to(folder):
    """By --force alone, as by the other commands."""
    assert run("apply", "plan.json", "model.pt", "model.pt", "--force").exit_code == 0
    assert torch.load("model.pt")["0.weight"].shape == (6, 4)


def test_what_no_one_expected_is_one_line_too(folder, monkeypatch):
    """With a code of its own; the traceback is there for who asks for it."""
    monkeypatch.setattr(dg.Graph, "load", lambda path: {}["none"])
    assert "unexpected KeyError at test_commands.py:" in told(run("show", "graph.json"), 9)
    monkeypatch.setenv("DEPGRAPH_TRACEBACK", "1")
    assert isinstance(run("show", "graph.json").exception, KeyError)


def buffered():
    """The environment of a process whose output waits in a buffer, as it does by default."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_output_that_no_one_reads_ends_the_command(folder):
    """A reader that has seen enough, a full disk and a stdout that is closed leave no traceback."""
    show = f"{sys.executable} -m depgraph show graph.json --json"
    for line, code in ((f"{show} | true; exit ${{PIPESTATUS[0]}}", 0), (f"{show} >&-", 0), (f"{show} >/dev/full", 3)):
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=buffered())
        assert result.returncode == code and result.stderr.count("\n") == (code > 0), result.stderr


LEFT_IN_THE_BUFFER = """
import os, sys
from depgraph.cli.ending import ending
reader, writer = os.pipe()
os.dup2(writer, 1)
def command():
    sys.stdout.write("some of it")
    os.close(reader)
ending(command)()
"""


def test_what_is_left_in_the_buffer_when_the_reader_goes_is_forgotten():
    """Python would write it again at its end, and say on stderr that it cannot."""
    result = subprocess.run([sys.executable, "-c", LEFT_IN_THE_BUFFER], capture_output=True, text=True, env=buffered())
    assert (result.returncode, result.stderr) == (0, "")


FAILURES = {
    ("show", "nothing.json"): (3, "depgraph: nothing.json: No such file"),
    ("show", "model.pt"): (3, "neither a graph nor a plan"),
    ("show", "scores.json"): (3, "neither a graph nor a plan"),
    ("why", "plan.json", "0.weight"): (3, "expected a graph"),
    ("apply", "graph.json", "model.pt", "small.pt"): (3, "expected a plan"),
    ("show", "graph.json", "--depth", "0"): (5, "at least 1"),
    ("show", "graph.json", "--graph", "graph.json"): (2, "goes with a plan"),
    ("trace", "factory_of_tests:net"): (5, "--input 1x3x224x224"),
    ("trace", "factory_of_tests:net", "-i", "1xfour"): (5, "expected a shape"),
    ("trace", "factory_of_tests:net", "-i", "1x4:float33"): (5, "expected a shape"),
    ("trace", "factory_of_tests"): (5, "module:factory"),
    ("trace", "factory_of_tests:number", "-i", "1x4"): (5, "gives a int"),
    ("trace", "factory_of_tests:broken", "-i", "1x4"): (8, "ValueError at factory_of_tests.py:9: no weights today"),
    ("trace", "factory_of_tests:none", "-i", "1x4"): (8, "AttributeError"),
    ("trace", "no_such_module_at_all:net", "-i", "1x4"): (8, "ModuleNotFoundError"),
    ("trace", "factory_of_tests:net", "-i", "1x5"): (8, "RuntimeError"),
    ("show",): (2, "Missing argument"),
    ("shwo",): (2, "No such command"),
    ("check", "plan.json", "--engine", "vlm"): (2, "is not one of"),
}


@pytest.mark.parametrize("line", FAILURES, ids=" ".join)
def test_failures_are_one_line_with_a_code(folder, line):
    """Each kind of failure has its code, and says in one line what is wrong."""
    code, text = FAILURES[line]
    assert text in told(run(*line), code)


def test_every_error_of_the_package_has_a_code():
    """None ends in a traceback."""
    kinds = {kind for kind in vars(dg.errors).values() if isinstance(kind, type) and issubclass(kind, DepgraphError)}
    assert kinds - {DepgraphError} <= set(CODES)


def test_nothing_in_a_file_is_executed(folder):
    """A pickle that would write a file is refused by all commands that take files."""

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, ("executed",))

    torch.save({"0.weight": Bomb()}, "bomb.pt")
    for line in (
        ("show", "bomb.pt"),
        ("apply", "plan.json", "bomb.pt", "out.pt"),
        ("check", "plan.json", "--checkpoint", "bomb.pt"),
        ("plan", "factory_of_tests:net", "-i", "1x4", "--ratio", "0.5", "--weights", "bomb.pt"),
    ):
        told(run(*line), 3)
    assert not Path("executed").exists()
    torch.load("bomb.pt", weights_only=False)
    assert Path("executed").exists()


def test_names_cannot_write_to_the_terminal(folder):
    """Control characters in the names of a file are shown as escapes."""
    model = nn.Sequential()
    model.add_module("a\x1b[2J", nn.Linear(4, 8))
    dg.trace(model, torch.zeros(1, 4)).save("odd.json")
    for line in (["show", "odd.json"], ["why", "odd.json", "a\x1b[2J"], ["why", "odd.json", "b\x1b[2J"]):
        result = run(*line)
        assert "\x1b" not in result.output + result.stderr and "\\x1b" in result.output + result.stderr


def test_choices_are_those_of_the_library():
    """The names that help lists are all there are."""
    from depgraph.choosing import engines
    from depgraph.cli.models import criterion_of

    assert set(ENGINES) == set(engines._ENGINES)
    assert all(criterion_of(name) is not None for name in CRITERIA)


@pytest.mark.parametrize("name", depgraph.commands)
def test_every_command_has_help_with_examples_that_parse(name):
    """Help tells what the command does; the options of its examples exist."""
    result = run(name, "--help")
    assert result.exit_code == 0 and "Examples:" in result.stdout
    known = {option for parameter in depgraph.commands[name].params for option in parameter.opts}
    for line in depgraph.commands[name].epilog.splitlines()[2:]:
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", line)) <= known, line


def test_completion():
    """Each shell gets a script, and click completes subcommands and choices."""
    for shell in ("bash", "zsh", "fish"):
        assert "_DEPGRAPH_COMPLETE" in run("completion", shell).stdout
    from click.shell_completion import BashComplete

    complete = BashComplete(depgraph, {}, "depgraph", "_DEPGRAPH_COMPLETE")
    assert [item.value for item in complete.get_completions([], "sh")] == ["show"]
    assert "vllm" in [item.value for item in complete.get_completions(["check", "--engine"], "v")]


def test_a_report_is_what_the_library_makes(folder):
    """The same file to the byte: of a graph, of one plan, of two beside each other, of several in turn."""
    graph, plan, other = dg.Graph.load("graph.json"), dg.Plan.load("plan.json"), dg.Plan.load("other.json")
    scores = json.loads(Path("scores.json").read_text())
    made = {
        (): dg.report(graph),
        ("--plan", "plan.json"): dg.report(graph, plan),
        ("--plan", "plan.json", "--other", "other.json", "--scores", "scores.json"): dg.report(graph, plan, other, scores),
        ("--plan", "plan.json", "--plan", "other.json", "--plan", "plan.json", "--scores", "scores.json"): dg.report(
            graph, scores=scores, plans=[plan, other, plan]
        ),
    }
    for options, expected in made.items():
        assert run("report", "graph.json", *options, "-o", "report.html", "--force").exit_code == 0
        assert Path("report.html").read_text() == expected.html, options
    assert len({expected.html for expected in made.values()}) == len(made)


@pytest.mark.parametrize("plans", [[], ["--plan", "plan.json", "--plan", "other.json"]])
def test_another_plan_stands_beside_one(folder, plans):
    """Beside none, or beside several in turn, it has no place."""
    line = told(run("report", "graph.json", *plans, "--other", "plan.json", "-o", "report.html"), 2)
    assert f"--other goes with one --plan, met {len(plans) // 2}" in line and not Path("report.html").exists()


def test_help_and_files_load_no_torch(folder):
    """A process of its own: help, show, why and diff load neither torch nor numpy."""
    code = (
        "import sys\nfrom depgraph.cli.commands import depgraph\n"
        "try: depgraph(sys.argv[1:], prog_name='depgraph')\n"
        "finally: print(sorted({'torch', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    for line in (
        ["--help"],
        ["plan", "--help"],
        ["show", "plan.json", "--graph", "graph.json"],
        ["diff", "plan.json", "plan.json"],
    ):
        result = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
        assert result.returncode == 0 and result.stderr.strip() == "[]", result.stderr


def test_as_a_module(folder):
    """``python -m depgraph`` is the command."""
    result = subprocess.run([sys.executable, "-m", "depgraph", "show", "nothing.json"], capture_output=True, text=True)
    assert result.returncode == 3 and result.stderr.count("\n") == 1
    assert isinstance(depgraph, click.Group)
