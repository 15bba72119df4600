"""Random programs keep what they compute, whatever may go; with one of the fixes taken out, some program does not."""

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings

from depgraph.solving import assembly
from depgraph.testing import assert_program_lawful, programs
from depgraph.tracing import number_calls
from depgraph.tracing.session import Session

pytestmark = pytest.mark.models


@given(programs())
@settings(max_examples=settings.default.max_examples * 3 // 2, suppress_health_check=list(HealthCheck))
def test_programs_keep_what_they_compute(program):
    """Outputs keep shapes and values down to each lower bound, and the square closes."""
    note(str(program))
    assert_program_lawful(program.module(), program.example_inputs(), program.seed)


TAKEN_OUT = {
    "sizes that no statement uses": (assembly, "_unnamed", lambda call, statements, place: iter(())),
    "sizes that become plain integers": (Session, "escape", lambda self, sources, owner: None),
    "casts and loops": (number_calls, "_FOLLOWED", {}),
    "comparisons by order": (Session, "below", lambda self, left, right, owner: None),
    "comparisons that came out equal": (Session, "fact", lambda self, left, right, size, owner: None),
    "comparisons that came out different": (Session, "unlike", lambda self, left, right, size, owner: None),
    "attributes of layers": (Session, "followed", lambda self, attribute, term, outside: None),
    "results that leave by another door": (Session, "returned", lambda self, outputs: None),
}


def first_violation(count):
    """What the first of so many programs that breaks the law raises, and its number. Those after it are not even drawn."""
    violations, drawn = [], []

    @seed(0)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def until_one(program):
        drawn.append(program)
        try:
            assert_program_lawful(program.module(), program.example_inputs(), program.seed)
        except Exception as error:
            violations.append(error)
            raise

    try:
        until_one()
    except Exception:
        if not violations:
            raise
    return (violations[0] if violations else None), len(drawn)


@pytest.mark.parametrize("fix", TAKEN_OUT)
def test_programs_refute_what_a_fix_was_made_for(monkeypatch, fix):
    """Without it one of some hundred programs has other shapes, other values, or another graph."""
    where, name, nothing = TAKEN_OUT[fix]
    monkeypatch.setattr(where, name, nothing)
    error, drawn = first_violation(400)
    assert error is not None, f"{drawn} programs do not need it"
