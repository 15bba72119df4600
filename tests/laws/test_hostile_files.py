"""Law 12: a file does nothing but slice and count. Damaged documents of plans and graphs, each with a valid digest."""

import copy

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from depgraph.execution import attributes
from depgraph.plans import checking, plan_files
from depgraph.plans import plan as plans
from tests import hostile

_WRITE = attributes.write


def examples(judge, contents, count):
    """Judge so many documents that are drawn from the contents, and tell how they fared."""
    tally = hostile.Tally()

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile.documents(contents))
    def run(content):
        judge(content, tally)

    run()
    return tally


def first_violation(judge, contents):
    """What the first of some hundred documents that breaks the law raises; the rest are not judged."""
    violations = []

    def until_one(content, tally):
        if not violations:
            try:
                judge(content, tally)
            except Exception as error:  # noqa: BLE001  a broken law may show as any error
                violations.append(error)

    examples(until_one, contents, 400)
    hostile.victim.cache_clear()  # what breaks the law may have written to the model that all tests share
    return violations[0] if violations else None


JUDGES = {
    "plan": (hostile.judge_plan, hostile.seeds),
    "plan of version 1": (hostile.judge_old_plan, hostile.old_seeds),
    "graph": (hostile.judge_graph, hostile.graph_seeds),
}


@pytest.mark.parametrize("kind, count", [("plan", 8), ("plan of version 1", 4)])
def test_a_plan_file_slices_and_counts_or_is_refused(kind, count):
    """Neither the given model nor the process changes; many documents come to each of the three ends."""
    judge, contents = JUDGES[kind]
    tally = examples(judge, contents(), count * settings.default.max_examples)
    assert set(tally.outcomes) == {"refused at load", "refused by execution", "executed"}
    assert all(count > tally.outcomes.total() / 50 for count in tally.outcomes.values()), tally


def test_a_graph_file_holds_a_graph_or_is_refused():
    """What loads saves as it was, and plans that are made on it obey the law of plans."""
    tally = examples(hostile.judge_graph, hostile.graph_seeds(), 5 * settings.default.max_examples)
    assert tally.outcomes["refused at load"] > 0 < tally.outcomes["loaded"], tally


@pytest.mark.parametrize("kind", JUDGES)
def test_what_is_sound_is_taken(kind):
    """The documents that the others are drawn from."""
    tally, (judge, contents) = hostile.Tally(), JUDGES[kind]
    for content in contents():
        judge(content, tally)
    assert tally.outcomes["refused at load"] == tally.outcomes["refused by execution"] == 0


def test_without_the_check_a_violation_is_found(monkeypatch):
    """The negative control: a plan of which nothing is asked makes negative sizes, or fails in another way than it promises."""
    monkeypatch.setattr(plans, "check", lambda plan: ())
    monkeypatch.setattr(plan_files, "check", lambda plan: ())
    assert first_violation(hostile.judge_plan, hostile.seeds()) is not None


def test_with_paths_that_lead_anywhere_a_violation_is_found(monkeypatch):
    """The negative control of the walk: stepping by `getattr` runs properties and leaves the model."""
    monkeypatch.setattr(checking, "is_step", lambda name: True)
    monkeypatch.setattr(attributes, "_child", _anything)
    monkeypatch.setattr(attributes, "write", _written)
    monkeypatch.setattr("depgraph.execution.execute.write", _written)
    for holder, name in (
        (hostile, "SECRET"),
        (hostile, "LIMITS"),
        (hostile.Victim, "FLAGS"),
        (hostile.Victim.helper, "__defaults__"),
        (hostile.Victim.helper, "__kwdefaults__"),
        (hostile.Settings, "width"),
    ):
        monkeypatch.setattr(holder, name, copy.copy(getattr(holder, name)))  # what is written to a copy goes with it
    violation = first_violation(hostile.judge_plan, hostile.seeds())
    signs = ("a property was run", "changed", "took what execute refused", "is not writable")
    assert any(words in str(violation) for words in signs), violation


def _anything(holder, step):
    """One step in the way of Python's own attributes."""
    try:
        if isinstance(holder, (list, tuple)):
            return holder[int(step)]
        return holder[step] if isinstance(holder, dict) else getattr(holder, step)
    except (AttributeError, ValueError, TypeError) as error:
        raise LookupError(step) from error


def _written(model, path, value):
    holder, step = attributes.holders(model, path)[-1], path.rpartition(".")[2]
    if isinstance(holder, tuple):
        _WRITE(model, path, value)
    elif isinstance(holder, (list, dict)):
        holder[int(step) if isinstance(holder, list) else step] = value
    else:
        setattr(holder, step, value)


def test_without_the_check_of_graphs_a_violation_is_found(monkeypatch):
    """The negative control of graphs: what is read is no graph that could be saved, or asked for its groups."""
    monkeypatch.setattr(hostile, "graph_problems", lambda graph: ())
    assert first_violation(hostile.judge_graph, hostile.graph_seeds()) is not None


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda model: setattr(model.first, "out_features", -8), "8 became -8"),
        (lambda model: setattr(model.first, "out_features", 8.0), "a int became a float"),
        (lambda model: setattr(model.drop, "p", 0.5), "0.0 became 0.5"),
        (lambda model: setattr(model, "extra", 1), "other keys"),
        (lambda model: model.sizes.append(1), "another length"),
        (lambda model: model.first.weight.data.add_(1), "is no selection|in another order|unravel"),
        (
            lambda model: setattr(model.first.weight, "data", model.first.weight.data.flip(0)),
            "is no selection|in another order",
        ),
        (lambda model: setattr(model.first.weight, "data", model.first.weight.data[:0]), r"\(0, 6\)"),
        (lambda model: setattr(model.first.weight, "data", model.first.weight.data.roll(1, 1)), "no selection|another order"),
    ],
)
def test_the_judge_sees_what_is_more_than_a_slice(damage, sentence):
    """The negative controls of the law's own comparison."""
    changed = copy.deepcopy(hostile.victim())
    hostile.assert_only_less(hostile.victim(), changed)
    damage(changed)
    with pytest.raises((AssertionError, ValueError), match=sentence):
        hostile.assert_only_less(hostile.victim(), changed)
