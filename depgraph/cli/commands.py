"""The subcommands. Each one loads what it needs when it runs: help and completion load neither torch nor a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from depgraph.graph.graph import Graph

_CODES = """\b
Exit codes:
  0  done
  1  the answer is no: plans differ, a plan does not fit, an engine refuses a size
  2  wrong usage
  3  a file is missing, damaged or of another kind
  4  a name that the graph does not have
  5  impossible: out of range, out of reach, pinned, or a package is missing
  6  a plan for another graph, model or checkpoint
  7  the model cannot be traced
  8  your own module or forward failed
  9  an unexpected error
  130  interrupted
"""

CRITERIA = ("magnitude", "l1", "bnscale", "lamp", "fpgm", "random")
ENGINES = ("vllm", "tensorrt_llm", "gguf", "onnxruntime", "flash_attention")


class Examples(click.Command):
    """A command whose help ends with examples, and which ends as `ending` says."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        lines = "".join(f"\n  {line}" for line in examples.splitlines())
        kwargs["epilog"] = f"\b\nExamples:{lines}"
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its failures have the codes of `depgraph --help`."""
        from depgraph.cli.ending import ending

        return ending(super().invoke)(ctx)


class Commands(click.Group):
    """The commands in the order of the work; wrong usage is told in one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line."""
        from depgraph.cli.ending import INTERRUPTED, fail, one_line

        try:
            code: Any = super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = 2
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx is not None else "depgraph"
            fail(2, f"{one_line(Exception(error.format_message()))} See `{where} --help`.")
        except click.Abort:
            fail(INTERRUPTED, "interrupted")
        raise SystemExit(code if isinstance(code, int) else 0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self.commands)


@click.group(cls=Commands, epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="depgraph", message="depgraph %(version)s")
def depgraph() -> None:
    """Exact structural pruning: graphs, plans and checkpoints.

    `trace` and `plan` run a model that you name; all other commands read files alone, and execute nothing in them.
    """


def command(examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A subcommand with examples."""
    return depgraph.command(cls=Examples, examples=examples)


FORMS = [
    click.option("--json", "form", flag_value="json", type=str, help="Print JSON."),
    click.option("--markdown", "form", flag_value="markdown", type=str, help="Print Markdown, for a pull request."),
    click.option("--html", "form", flag_value="html", type=str, help="Print HTML."),
]
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
FORCE = click.option("--force", is_flag=True, help="Write over files that exist.")
DEPTH = click.option("--depth", type=int, help="Show so many levels of modules.")
INPUT = click.option(
    "--input", "-i", "inputs", multiple=True, metavar="SHAPE", help="An input: 1x3x224x224, or name=1x8:int64. Repeatable."
)


def forms(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the form of the output."""
    for option in reversed(FORMS):
        function = option(function)
    return function


@command("depgraph show graph.json --depth 2\ndepgraph show plan.json\ndepgraph show plan.json --graph graph.json --markdown")
@click.argument("file")
@click.option("--graph", "graph_file", metavar="FILE", help="With a plan: the graph that it was made for, to show its modules.")
@DEPTH
@forms
def show(file: str, graph_file: str | None, depth: int | None, form: str | None) -> None:
    """Show a graph or a plan as a table."""
    from depgraph.cli.files import load, load_graph, show
    from depgraph.plans.plan import Plan
    from depgraph.plans.summary import PlanLines

    value = load(file)
    if not isinstance(value, Plan):
        if graph_file is not None:
            raise click.UsageError("--graph goes with a plan.")
        show(value.summary(depth), form or "text")
    elif graph_file is not None:
        show(value.summary(load_graph(graph_file), depth), form or "text")
    elif form is None:
        click.echo(str(value))
    else:
        show(PlanLines(value), form)


@command(
    "depgraph why graph.json layer1.0.conv1.weight\ndepgraph why graph.json conv1.out_channels\n"
    "depgraph why graph.json role:head\ndepgraph why graph.json --plan plan.json"
)
@click.argument("graph_file", metavar="GRAPH")
@click.argument("path", required=False)
@click.option("--plan", "plan_file", metavar="FILE", help="Tell why this plan is refused, if it is.")
@AS_JSON
def why(graph_file: str, path: str | None, plan_file: str | None, as_json: bool) -> None:
    """Tell why something is coupled, limited or pinned.

    PATH is a group, a parameter (also with :dim behind it), an attribute, a module, an operation, or a pattern.
    """
    from depgraph.cli.files import load_graph, load_plan
    from depgraph.graph.tables import printable
    from depgraph.plans.reasons import why as reason

    if (path is None) == (plan_file is None):
        raise click.UsageError("give a path, or --plan FILE.")
    graph = load_graph(graph_file)
    text = reason(graph, path if path is not None else load_plan(str(plan_file)))
    lines = [printable(line) for line in text.splitlines()]
    _tell({"path": path, "plan": plan_file, "lines": lines}, "\n".join(lines), as_json)


@command("depgraph diff plan.json other.json\ndepgraph diff plan.json other.json --json")
@click.argument("first")
@click.argument("second")
@AS_JSON
def diff(first: str, second: str, as_json: bool) -> None:
    """Tell in what two plans of one graph differ; exit code 1 if they do."""
    from depgraph.cli.ending import FOUND
    from depgraph.cli.files import load_plan
    from depgraph.graph.tables import printable

    difference = load_plan(first).diff(load_plan(second))
    data = {
        "equal": not difference,
        "cuts": [{"group": cut.group, "first": str(cut.first), "second": str(cut.second)} for cut in difference.cuts],
        "drops": [{"path": drop.path, "first": str(drop.first), "second": str(drop.second)} for drop in difference.drops],
        "branches": [{"path": branch.path, "by": branch.by} for branch in difference.branches],
        "edits": [{"path": edit.path, "first": edit.first, "second": edit.second} for edit in difference.edits],
        "fields": list(difference.fields),
    }
    _tell(data, "\n".join(map(printable, str(difference).splitlines())) if difference else "no difference", as_json)
    if difference:
        raise SystemExit(FOUND)


@command(
    "depgraph check plan.json --graph graph.json\ndepgraph check plan.json --checkpoint model.safetensors\n"
    "depgraph check plan.json --model mymodels:resnet\n"
    "depgraph check plan.json --graph graph.json --engine vllm --set tensor_parallel=4\n"
    "depgraph check graph.json --engine gguf --set format=q8_0"
)
@click.argument("file")
@click.option("--graph", "graph_file", metavar="FILE", help="The graph that the plan was made for.")
@click.option("--checkpoint", metavar="PATH", help="A file or folder of weights that the plan is to fit.")
@click.option("--model", metavar="SOURCE", help="A model that the plan is to fit: module:factory, or a folder of transformers.")
@click.option("--engine", type=click.Choice(ENGINES), help="An engine that is to take the sizes; with a plan needs --graph.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the engine. Repeatable.")
@click.option("--no-strict", is_flag=True, help="The checkpoint may lack tensors that the plan cuts.")
@AS_JSON
def check(file: str, graph_file: str | None, as_json: bool, **against: Any) -> None:
    """Check a plan against a graph, a checkpoint, a model or an engine; exit code 1 if it does not fit.

    FILE is a plan, or, for an engine alone, a graph.
    """
    from depgraph.cli import checking
    from depgraph.cli.ending import FOUND
    from depgraph.cli.files import load, load_graph
    from depgraph.plans.plan import Plan

    value = load(file)
    plan = value if isinstance(value, Plan) else None
    graph = load_graph(graph_file) if graph_file is not None else value if not isinstance(value, Plan) else None
    if plan is None and (graph_file or against["checkpoint"] or against["model"] or not against["engine"]):
        raise click.UsageError("a graph by itself is checked against an engine: give --engine, or pass a plan.")
    if plan is not None and against["engine"] and graph is None:
        raise click.UsageError("--engine needs the --graph that the plan was made for.")
    verdicts = [*checking.verdicts(plan, graph, **against)]
    data = {"ok": all(item.ok for item in verdicts), "checks": [item.to_dict() for item in verdicts]}
    _tell(data, "\n".join(str(item) for item in verdicts), as_json)
    if not data["ok"]:
        raise SystemExit(FOUND)


@command(
    "depgraph apply plan.json model.safetensors small.safetensors\n"
    "depgraph apply plan.json ./Llama-3.2-1B ./small --max-shard-size 5GB\n"
    "depgraph apply plan.json last.pt small.pt --strip-prefix model."
)
@click.argument("plan_file", metavar="PLAN")
@click.argument("source")
@click.argument("target")
@click.option("--strip-prefix", metavar="TEXT", help="What the checkpoint's names begin with and the model's do not.")
@click.option("--max-shard-size", metavar="SIZE", help="Write a folder with shards of at most so many bytes, such as 5GB.")
@click.option("--no-strict", is_flag=True, help="The checkpoint may lack tensors that the plan cuts.")
@click.option("--progress", is_flag=True, help="Show a progress bar; needs tqdm.")
@FORCE
@AS_JSON
def apply(
    plan_file: str,
    source: str,
    target: str,
    strip_prefix: str | None,
    max_shard_size: str | None,
    no_strict: bool,
    progress: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Prune a checkpoint without its model: SOURCE in, TARGET out, whole or not at all.

    Safetensors, what torch.save wrote (read with weights_only=True), folders of shards. A folder must be new. Of a folder of
    transformers the configuration follows and all other files are copied, so that transformers loads it.
    """
    from depgraph.cli.files import load_plan, refuse_existing, size_of

    if not Path(target).is_dir():  # a folder is refused by whoever would write it
        refuse_existing(target, force)
    plan = load_plan(plan_file)
    before = size_of(source)
    data: dict[str, Any] = {"source": source, "target": target}
    if (Path(source) / "config.json").is_file():
        from depgraph.cli.models import prune_folder

        if strip_prefix or no_strict:
            raise click.UsageError("--strip-prefix and --no-strict are for checkpoints without a config.json.")
        saved = prune_folder(plan, source, target, max_shard_size=max_shard_size, replace=force, progress=progress)
        data.update(stock=saved.stock, keys=saved.keys, problems=saved.problems)
        text = f"{saved}\n"
    else:
        from depgraph.execution.checkpoints import prune_checkpoint

        prefix = strip_prefix or ""
        prune_checkpoint(
            plan,
            source,
            target,
            rename=(lambda name: name.removeprefix(prefix)) if prefix else None,
            strict=not no_strict,
            max_shard_size=max_shard_size,
            progress=progress,
        )
        text = ""
    after = size_of(target)
    data.update(bytes_before=before, bytes_after=after)
    _tell(data, f"{text}{target}: {after / before:.0%} of the bytes of {source}", as_json)


@command(
    "depgraph trace mymodels:resnet --input 1x3x224x224 -o graph.json\n"
    "depgraph trace mymodels:bert --input input_ids=1x16 --input attention_mask=1x16 -o graph.json\n"
    "depgraph trace ./Llama-3.2-1B -o graph.json"
)
@click.argument("source")
@INPUT
@click.option("--output", "-o", metavar="FILE", help="Where the graph goes.")
@click.option("--mode", type=click.Choice(["auto", "fake", "real"]), default="auto", show_default=True, help="See dg.trace.")
@DEPTH
@FORCE
@forms
def trace(
    source: str, inputs: tuple[str, ...], output: str | None, mode: str, depth: int | None, force: bool, form: str | None
) -> None:
    """Trace a model and show its graph.

    SOURCE is module:factory, which is imported and called, or a folder of transformers, whose weights are not read.
    """
    from depgraph.cli.files import refuse_existing, show
    from depgraph.cli.models import model_at

    refuse_existing(output, force)
    graph = _traced(model_at(source, inputs, weights=False), source, mode)
    if output is not None:
        graph.save(output)
        click.echo(f"wrote {output}", err=True)
    show(graph.summary(depth), form or "text")


@command(
    "depgraph plan mymodels:resnet --input 1x3x224x224 --macs 0.5 -o plan.json --save-graph graph.json\n"
    "depgraph plan ./Llama-3.2-1B --ratio role:channel=0.25 --engine vllm -o plan.json\n"
    "depgraph plan graph.json --scores scores.json --params 0.5 --scope global -o plan.json"
)
@click.argument("source")
@INPUT
@click.option("--scores", "scores_file", metavar="FILE", help="Scores as JSON; then SOURCE may be a graph. Else --criterion.")
@click.option("--criterion", type=click.Choice(CRITERIA), default="magnitude", show_default=True, help="What gives the scores.")
@click.option("--weights", metavar="FILE", help="A state dict to load into the model of module:factory.")
@click.option("--ratio", multiple=True, metavar="[PATTERN=]NUMBER", help="The fraction to remove. Repeatable with patterns.")
@click.option("--params", metavar="NUMBER", help="Parameters to remain: a fraction, or a whole number above 1.")
@click.option("--macs", metavar="NUMBER", help="Multiply-accumulates to remain, likewise.")
@click.option("--depth-ratio", "depths", multiple=True, metavar="LIST=NUMBER", help="Elements of a list of modules to drop.")
@click.option("--scope", type=click.Choice(["group", "global", "isomorphic"]), default="group", show_default=True)
@click.option("--max-ratio", multiple=True, metavar="[PATTERN=]NUMBER", help="The largest fraction that a group may lose.")
@click.option("--min-width", multiple=True, metavar="[PATTERN=]NUMBER", help="What a group keeps at least.")
@click.option("--round-to", multiple=True, metavar="[PATTERN=]NUMBER", help="Of what the kept sizes are multiples.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="What is left whole. Repeatable.")
@click.option("--only", multiple=True, metavar="PATTERN", help="What takes part; all else is left whole. Repeatable.")
@click.option("--uniform", multiple=True, metavar="PATTERN", help="What keeps equal sizes. Repeatable.")
@click.option("--engine", type=click.Choice(ENGINES), help="Sizes that this engine takes.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the engine. Repeatable.")
@click.option("--output", "-o", metavar="FILE", help="Where the plan goes.")
@click.option("--save-graph", metavar="FILE", help="Where the graph goes, for the other commands.")
@click.option("--depth", type=int, help="Show so many levels of modules.")
@FORCE
@forms
def plan(source: str, output: str | None, save_graph: str | None, force: bool, form: str | None, **options: Any) -> None:
    """Make a plan and show it.

    SOURCE is module:factory or a folder of transformers, whose weights a criterion scores; or a graph, with --scores.
    """
    from depgraph.cli.files import refuse_existing, show
    from depgraph.cli.planning import planned

    refuse_existing(output, force)
    refuse_existing(save_graph, force)
    graph, made = planned(source, _traced, **options)
    if save_graph is not None:
        graph.save(save_graph)
    if output is not None:
        made.save(output)
    for written in filter(None, (save_graph, output)):
        click.echo(f"wrote {written}", err=True)
    show(made.summary(graph, options["depth"]), form or "text")


@command(
    "depgraph report graph.json -o report.html\ndepgraph report graph.json --plan plan.json --other other.json -o report.html\n"
    "depgraph report graph.json --plan step1.json --plan step2.json --plan step3.json -o report.html"
)
@click.argument("graph_file", metavar="GRAPH")
@click.option(
    "--plan", "plan_files", multiple=True, metavar="FILE", help="A plan of the graph. Several go in turn, by a slider."
)
@click.option("--other", "other_file", metavar="FILE", help="Another plan, to stand beside a single one.")
@click.option("--scores", "scores_file", metavar="FILE", help="Scores as JSON.")
@click.option("--output", "-o", required=True, metavar="FILE", help="Where the report goes.")
@FORCE
def report(
    graph_file: str, plan_files: tuple[str, ...], other_file: str | None, scores_file: str | None, output: str, force: bool
) -> None:
    """Write a report as one HTML file."""
    import depgraph as dg
    from depgraph.cli.files import load_graph, load_plan, load_scores, refuse_existing

    if other_file is not None and len(plan_files) != 1:
        raise click.UsageError(f"--other goes with one --plan, met {len(plan_files)}; several --plan are shown in turn.")
    refuse_existing(output, force)
    graph, plans = load_graph(graph_file), [load_plan(file) for file in plan_files]
    scores = load_scores(scores_file) if scores_file is not None else None
    other = load_plan(other_file) if other_file is not None else None
    if len(plans) == 1:
        dg.report(graph, plans[0], other, scores).save(output)
    else:
        dg.report(graph, scores=scores, plans=plans).save(output)
    click.echo(f"wrote {output}", err=True)


@command('eval "$(depgraph completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell needs to complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    click.echo(kind(depgraph, {}, "depgraph", "_DEPGRAPH_COMPLETE").source())


def _tell(data: dict[str, Any], text: str, as_json: bool) -> None:
    import json

    click.echo(json.dumps(data, indent=1) if as_json else text)


def _traced(named: Any, source: str, mode: Any = "auto") -> Graph:
    """The graph of a model; its warnings go to stderr, one line each."""
    import warnings

    from depgraph.cli.ending import one_line
    from depgraph.cli.models import users_code
    from depgraph.tracing.trace import trace as traced

    with warnings.catch_warnings(record=True) as caught, users_code(source):
        warnings.simplefilter("default")
        graph = traced(named.model, named.args, named.kwargs, mode=mode)
    for text in dict.fromkeys(one_line(item.message) for item in caught if isinstance(item.message, Warning)):
        click.echo(f"depgraph: warning: {text}", err=True)
    return graph
