"""Sizes with a provenance: which attributes follow which axes, what a literal pins, what must stay balanced or large enough.

Every size is a polynomial in the sizes of the prunable atoms; pinned atoms are constants. A demand equates two such
polynomials. One that holds identically is dropped; one between two single atoms balances them; an attribute takes the
polynomial that is demanded of it; anything else pins what it mentions. A comparison that comes out the same only while enough
indices are left gives its atoms a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from math import gcd, lcm

from attrs import frozen

from depgraph.algebra.polynomials import Polynomial
from depgraph.solving.balances import Balancing
from depgraph.solving.bounds import Bounds, Form, Uneven
from depgraph.solving.demands import (
    TERMS,
    Below,
    Demand,
    Divisible,
    EqualSizes,
    Escape,
    FollowingAttribute,
    Settled,
    SizeFact,
    Unlike,
)
from depgraph.solving.expressions import Arithmetic, Attribute, AxisSize, Computed, Expression, Literal
from depgraph.solving.sized import origin
from depgraph.solving.statements import Axis, Known, Pin, Term
from depgraph.solving.unification import Solver


def settle(
    solver: Solver, demands: Iterable[Demand], parameter_axes: Sequence[Axis] = (), copies: Sequence[Axis] = ()
) -> Settled:
    """State in the solver what the demands force, and return what remains to be followed.

    `parameter_axes` are the axes of the parameters: an atom that occurs in none of them can never lose an index by itself.
    `copies` are axes that forward makes of equal parts: which of these go is all the same.
    """
    return _Settlement(solver, demands, parameter_axes, copies).run()


class _Outcome(Enum):
    """What came of one equation."""

    DONE = "it holds, or an attribute was solved for"
    CHANGED = "something was pinned or balanced"
    WAITING = "more must be known first"


@frozen
class _Equation:
    """Two sizes that are equal, and where; or, `explained`, the reason why what they mention stays."""

    left: Expression | Term
    right: Expression | Term
    where: str
    explained: bool = False


class _Settlement:
    def __init__(
        self, solver: Solver, demands: Iterable[Demand], parameter_axes: Sequence[Axis], copies: Sequence[Axis]
    ) -> None:
        self.solver = solver
        self.sizes = Balancing(solver, parameter_axes, copies)
        self.equations: list[_Equation] = []
        self.following: dict[str, Term] = {}
        self.counted: dict[str, Term] = {}
        self.comparisons: list[Unlike | Below] = []
        self.divisible: list[Divisible] = []
        self.known: dict[str, tuple[Polynomial, Term | None]] = {}
        self.lower_bounds: dict[int, tuple[int, str]] = {}
        for demand in demands:
            self._take(demand)

    def _take(self, demand: Demand) -> None:
        if isinstance(demand, FollowingAttribute):
            self.following.setdefault(demand.attribute.path, demand.term)
            if demand.outside:
                self.counted.setdefault(demand.attribute.path, demand.term)
        elif isinstance(demand, Below) and isinstance(demand.left, TERMS) and isinstance(demand.right, Literal):
            pass  # a size that only shrinks stays below a number
        elif isinstance(demand, (Unlike, Below)):
            self.comparisons.append(demand)
        elif isinstance(demand, Divisible):
            self.divisible.append(demand)
        elif isinstance(demand, EqualSizes):
            first, *others = demand.terms
            self.equations.extend(_Equation(first, other, demand.reason) for other in others)
        elif isinstance(demand, Escape):
            number = Computed(0, demand.sources)
            self.equations.append(_Equation(number, number, demand.reason, explained=True))
        elif isinstance(demand, SizeFact):
            self._equate(demand.left, demand.right, f"a comparison at {demand.where}")
        elif demand.term.size != demand.size:
            self.solver.state(Pin(demand.term, f"a size beyond its own names it ({demand.where})"), demand.where)
            self._take(Escape((origin(demand.size),), f"it names another axis beyond that one's size ({demand.where})"))
        elif demand.term.size > 1 or isinstance(origin(demand.size), (Arithmetic, Computed)):
            self._equate(origin(demand.size), demand.term, demand.where)

    def _equate(self, left: Expression | Term, right: Expression | Term, where: str) -> None:
        if isinstance(left, TERMS) or isinstance(right, Literal):
            left, right = right, left
        if isinstance(left, Literal):
            if isinstance(right, TERMS):
                self.solver.state(Pin(right, f"it is named by {left} ({where})"), where)
                return
            if isinstance(right, AxisSize):
                self.solver.pin(self._axis(right), f"it is compared with {left} ({where})")
                return
        if isinstance(left, AxisSize):
            if isinstance(right, TERMS):
                self._tie(self._axis(left), self.solver.term(right), where)
                return
            if isinstance(right, AxisSize):
                self._tie(self._axis(left), self._axis(right), where)
                return
        self.equations.append(_Equation(left, right, where))

    def _axis(self, expression: AxisSize) -> int:
        return self.solver.term(Axis(expression.value, expression.dim, expression.size))

    def _tie(self, left: int, right: int, where: str) -> None:
        """A size that another axis gave: both lose the same indices, unless the sizes agree whatever is removed."""
        if left != right and self.sizes.polynomial(left) != self.sizes.polynomial(right):
            self.solver.unify(left, right, where)

    def run(self) -> Settled:
        """Go over the equations until nothing new is forced: each round pins or balances at least one atom."""
        while self._round() or self._compare():
            pass
        attributes: dict[str, Term] = {}
        for path, (known, term) in self.known.items():
            polynomial = self.sizes.refreshed(known)
            if not polynomial.is_constant:
                attributes[path] = term if term is not None else self.sizes.term_of(polynomial)
        for path, term in self.following.items():
            polynomial = self.sizes.polynomial(self.solver.term(term))
            if not polynomial.is_constant and path not in attributes:
                attributes[path] = term
        return Settled(tuple(attributes.items()), self.sizes.balances(), self._lower_bounds(), self._divisors())

    def _compare(self) -> bool:
        """Bound what must stay larger than something; pin what is compared in a way that is not understood."""
        bounds = Bounds(self.sizes)
        changed = False
        for comparison in self.comparisons:
            form = _combined("-", self._form(comparison.right), self._form(comparison.left))
            if form is not None and bounds.keep(form, comparison.reason, either=isinstance(comparison, Unlike)):
                continue
            for leaf in (*self._mentioned(comparison.left), *self._mentioned(comparison.right)):
                if self.solver.reason(leaf) is None:
                    self.solver.pin(leaf, f"{comparison.reason}, in a way that is not understood")
                    changed = True
        self.lower_bounds = bounds.lower_bounds
        return changed

    def _lower_bounds(self) -> tuple[tuple[Term, int, str], ...]:
        result: list[tuple[Term, int, str]] = []
        for leaf, (size, reason) in self.lower_bounds.items():
            for root in self.sizes.members(leaf):
                result.append((Known(self.solver.size(root), root), size, reason))
        return tuple(result)

    def _divisors(self) -> tuple[tuple[Term, int, str], ...]:
        """Of which numbers atoms stay multiples so that each size does: of the factors of a product the largest bears most."""
        free, found = self.sizes.parameter_leaves(), dict[int, tuple[int, str]]()
        for demand in self.divisible:
            polynomial = self.sizes.polynomial(self.solver.term(demand.term))
            for monomial, count in polynomial.terms if demand.term.size % demand.by == 0 else ():
                rest = demand.by // gcd(count, demand.by)
                for atom in sorted(monomial, key=lambda atom: (-self.solver.size(atom), atom)):
                    share = gcd(self.solver.size(atom), rest)
                    rest //= share
                    if share > 1 and (free is None or not free.isdisjoint(self.sizes.members(atom))):
                        found[atom] = lcm(share, found.get(atom, (1, ""))[0]), demand.reason
        return tuple(
            (Known(self.solver.size(root), root), number, reason)
            for atom, (number, reason) in found.items()
            for root in self.sizes.members(atom)
        )

    def _form(self, side: Expression | Term) -> Form | None:
        """An expression as a polynomial, or as arithmetic over polynomials where a division does not come out even."""
        if isinstance(side, Attribute) and side.path not in self.known:
            term = self.following.get(side.path)
            return Polynomial.constant(side.value) if term is None else self.sizes.polynomial(self.solver.term(term))
        if not isinstance(side, Arithmetic):
            return self._value(side)
        return _combined(side.op, self._form(side.left), self._form(side.right))

    def _round(self) -> bool:
        """One pass over the open equations; true if something was pinned, balanced or solved, so that another may help."""
        progress = self.sizes.spread_pins()
        still_open = []
        for equation in self.equations:
            outcome = self._solve(equation)
            progress = progress or outcome is not _Outcome.WAITING
            if outcome is not _Outcome.DONE:
                still_open.append(equation)
        self.equations = still_open
        if progress or self._settle_one(still_open):
            return True
        return any(self._pin_equation(equation) for equation in still_open)

    def _settle_one(self, open_equations: list[_Equation]) -> bool:
        """Several attributes in one product or quotient: one may keep its value, so that another one can follow."""
        for equation in open_equations:
            for side in (equation.left, equation.right):
                unknown = self._unknown(side)
                if len(unknown) > 1:
                    path, value = min(unknown.items(), key=lambda item: (item[1], item[0]))
                    self.known[path] = (Polynomial.constant(value), None)
                    return True
        return False

    def _unknown(self, side: Expression | Term) -> dict[str, int]:
        """The attributes of an expression that nothing has settled yet, with their present values."""
        if isinstance(side, Attribute):
            return {} if side.path in self.known or side.path in self.counted else {side.path: side.value}
        if isinstance(side, Arithmetic) and side.op != "%":
            return {**self._unknown(side.left), **self._unknown(side.right)}
        return {}

    def _solve(self, equation: _Equation) -> _Outcome:
        """Use one equation: pin, balance or solve for an attribute what it forces."""
        left, right = self._value(equation.left), self._value(equation.right)
        if left is not None and right is not None:
            if left == right or (left.is_constant and right.is_constant):
                return _Outcome.DONE
            self.sizes.reconcile(left, right, equation.where)
            return _Outcome.CHANGED
        if (left is None) == (right is None):
            return _Outcome.WAITING
        quotient = self._quotient(equation.left, right) or self._quotient(equation.right, left)
        if quotient is not None:
            if quotient[0] == quotient[1] or (quotient[0].is_constant and quotient[1].is_constant):
                return _Outcome.DONE
            self.sizes.reconcile(*quotient, equation.where)
            return _Outcome.CHANGED
        side, target = (equation.left, right) if left is None else (equation.right, left)
        assert target is not None
        solved = self._invert(side, target)
        if solved is None or solved[1].has_negative:
            return _Outcome.WAITING
        attribute, polynomial = solved
        if self.sizes.size_of(polynomial) != attribute.value:
            return _Outcome.WAITING  # a division that left a remainder: the attribute cannot be told from the quotient
        other = equation.right if left is None else equation.left
        direct = isinstance(side, Attribute)
        term = other if direct and isinstance(other, TERMS) else None
        self.known[attribute.path] = (polynomial, term)
        return _Outcome.DONE

    def _quotient(self, side: Expression | Term, target: Polynomial | None) -> tuple[Polynomial, Polynomial] | None:
        """``a // b == target`` as ``a == b * target``, where it comes out even now and polynomials do not divide."""
        if target is None or not isinstance(side, Arithmetic) or side.op != "//":
            return None
        dividend, divisor = self._value(side.left), self._value(side.right)
        if dividend is None or divisor is None:
            return None
        multiple = divisor * target
        return (dividend, multiple) if self.sizes.size_of(dividend) == self.sizes.size_of(multiple) else None

    def _value(self, side: Expression | Term) -> Polynomial | None:
        if isinstance(side, TERMS):
            return self.sizes.polynomial(self.solver.term(side))
        if isinstance(side, Literal):
            return Polynomial.constant(side.value)
        if isinstance(side, AxisSize):
            return self.sizes.polynomial(self._axis(side))
        if isinstance(side, Attribute) and side.path in self.counted:
            return self.sizes.polynomial(self.solver.term(self.counted[side.path]))
        if isinstance(side, Attribute):
            return self.sizes.refreshed(self.known[side.path][0]) if side.path in self.known else None
        if isinstance(side, Computed):
            sources = [self._value(source) for source in side.sources]
            constant = all(source is not None and source.is_constant for source in sources)
            return Polynomial.constant(side.value) if constant else None
        left, right = self._value(side.left), self._value(side.right)
        if left is None or right is None:
            return None
        if side.op in {"//", "%"} and left.is_constant and right.is_constant:
            divided = divmod(left.value({}), right.value({}))
            return Polynomial.constant(divided[side.op == "%"])
        return _polynomial(side.op, left, right)

    def _invert(self, side: Expression | Term, target: Polynomial) -> tuple[Attribute, Polynomial] | None:
        """Solve ``side == target`` for its one unknown attribute."""
        if isinstance(side, Attribute):
            return side, target
        if not isinstance(side, Arithmetic) or side.op == "%":
            return None
        left, right = self._value(side.left), self._value(side.right)
        if (left is None) == (right is None):
            return None
        undone: Polynomial | None
        if left is None:
            assert right is not None
            inverse = {"+": "-", "-": "+", "*": "//", "//": "*"}[side.op]
            undone = _polynomial(inverse, target, right)
            return None if undone is None else self._invert(side.left, undone)
        inverse = {"+": "-", "-": "-", "*": "//", "//": "//"}[side.op]
        undone = _polynomial(inverse, *((left, target) if side.op in "-//" else (target, left)))
        return None if undone is None else self._invert(side.right, undone)

    def _pin_equation(self, equation: _Equation) -> bool:
        """No attribute could be solved for: whatever the equation mentions stays as it is."""
        changed = False
        unknown = f"forward computes its size in a way that is not understood ({equation.where})"
        for side in (equation.left, equation.right):
            for leaf in self._mentioned(side):
                if self.solver.reason(leaf) is None:
                    self.solver.pin(leaf, equation.where if equation.explained else unknown)
                    changed = True
        return changed

    def _mentioned(self, side: Expression | Term) -> list[int]:
        if isinstance(side, TERMS):
            return self.solver.leaves(self.solver.term(side))
        if isinstance(side, AxisSize):
            return self.solver.leaves(self._axis(side))
        if isinstance(side, Computed):
            return [leaf for source in side.sources for leaf in self._mentioned(source)]
        if isinstance(side, Arithmetic):
            return self._mentioned(side.left) + self._mentioned(side.right)
        if isinstance(side, Attribute) and side.path in self.counted:
            return self.solver.leaves(self.solver.term(self.counted[side.path]))
        if isinstance(side, Attribute) and side.path in self.known:
            return list(self.sizes.refreshed(self.known[side.path][0]).variables)
        return []


def _combined(op: str, left: Form | None, right: Form | None) -> Form | None:
    if left is None or right is None or (op in {"//", "%"} and right == Polynomial()):
        return None
    exact = _polynomial(op, left, right) if isinstance(left, Polynomial) and isinstance(right, Polynomial) else None
    return Uneven(op, left, right) if exact is None else exact


def _polynomial(op: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    """Arithmetic over polynomials; None for a division that does not come out even, and its remainder."""
    if op == "//":
        return left.quotient(right)
    if op == "%":
        return None if left.quotient(right) is None else Polynomial()
    return left + right if op == "+" else left - right if op == "-" else left * right
