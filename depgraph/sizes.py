"""Sizes with a provenance: which attributes follow which axes, what a literal pins, what must stay balanced.

Every size is a polynomial in the sizes of the prunable atoms; pinned atoms are constants. A demand equates two such
polynomials. One that holds identically is dropped; one between two single atoms balances them; an attribute takes the
polynomial that is demanded of it; anything else pins what it mentions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TypeAlias

from attrs import frozen

from depgraph.equations import Axis, Backwards, Fresh, Known, Pin, Plus, Term, Times
from depgraph.polynomials import Monomial, Polynomial, combine, difference, without_common_factor
from depgraph.provenance import Arithmetic, Attribute, AxisSize, Computed, Expression, Literal, origin
from depgraph.solve import Solver


@frozen
class NamedSize:
    """A call named the size of a term with an integer."""

    term: Term
    size: int
    where: str


@frozen
class EqualSizes:
    """Terms that must keep equal sizes."""

    terms: tuple[Term, ...]
    reason: str


@frozen
class SizeFact:
    """Two expressions that forward found equal."""

    left: Expression
    right: Expression
    where: str


@frozen
class Unlike:
    """Two expressions that forward found different: were they to become equal, it would take another branch."""

    left: Expression
    right: Expression
    where: str


@frozen
class FollowingAttribute:
    """An attribute that describes a term; nothing reads it in forward."""

    attribute: Attribute
    term: Term


@frozen
class Escape:
    """A plain number was computed from these sizes: they stay as they are."""

    sources: tuple[Expression, ...]
    where: str


Demand: TypeAlias = NamedSize | EqualSizes | SizeFact | Unlike | FollowingAttribute | Escape


@frozen
class Settled:
    """Attributes with the terms that they count, and balanced terms with the reason."""

    attributes: tuple[tuple[str, Term], ...]
    balances: tuple[tuple[tuple[Term, ...], str], ...]


_MANY = 64
"""More constant positions than this in one size are pinned rather than laid out one by one."""

_KEEPS = "it must keep the size of a pinned axis"

TERMS = (Axis, Fresh, Times, Plus, Backwards, Known)


def settle(solver: Solver, demands: Iterable[Demand], held: Sequence[Axis] = (), copies: Sequence[Axis] = ()) -> Settled:
    """State in the solver what the demands force, and return what remains to be followed.

    `held` are the axes of the parameters: an atom that occurs in none of them can never lose an index by itself. `copies`
    are axes that forward makes of equal parts: which of these go is all the same.
    """
    return _Settlement(solver, demands, held, copies).run()


@frozen
class _Equation:
    left: Expression | Term
    right: Expression | Term
    where: str


class _Settlement:
    def __init__(self, solver: Solver, demands: Iterable[Demand], held: Sequence[Axis], copies: Sequence[Axis]) -> None:
        self.solver = solver
        self.held = held
        self.copies = copies
        self.equations: list[_Equation] = []
        self.following: list[FollowingAttribute] = []
        self.unlike: list[Unlike] = []
        self.known: dict[str, tuple[Polynomial, Term | None]] = {}
        self.balanced: dict[int, int] = {}
        self.reasons: dict[int, str] = {}
        for demand in demands:
            self._take(demand)

    def _take(self, demand: Demand) -> None:
        if isinstance(demand, FollowingAttribute):
            self.following.append(demand)
        elif isinstance(demand, Unlike):
            self.unlike.append(demand)
        elif isinstance(demand, EqualSizes):
            first, *others = demand.terms
            self.equations.extend(_Equation(first, other, demand.reason) for other in others)
        elif isinstance(demand, Escape):
            number = Computed(0, demand.sources)
            self.equations.append(_Equation(number, number, f"a number computed at {demand.where}"))
        elif isinstance(demand, SizeFact):
            self._equate(demand.left, demand.right, f"a comparison at {demand.where}")
        elif demand.term.size != demand.size:
            self.solver.state(Pin(demand.term, f"a size beyond its own names it ({demand.where})"), demand.where)
        elif demand.term.size > 1 or isinstance(origin(demand.size), Arithmetic):
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
        if left != right and self._polynomial(left) != self._polynomial(right):
            self.solver.unify(left, right, where)

    def run(self) -> Settled:
        """Go over the equations until nothing new is forced: each round pins or balances at least one atom."""
        while self._round() or self._keep_unlike():
            pass
        attributes: dict[str, Term] = {}
        for path, (known, term) in self.known.items():
            polynomial = self._refreshed(known)
            if any(polynomial):
                attributes[path] = term if term is not None else self._term_of(polynomial)
        for follower in self.following:
            polynomial = self._polynomial(self.solver.term(follower.term))
            if any(polynomial) and follower.attribute.path not in attributes:
                attributes[follower.attribute.path] = follower.term
        classes: dict[int, list[int]] = {}
        for leaf in self.balanced:
            classes.setdefault(self._class(leaf), []).append(leaf)
        balances = []
        for representative, leaves in classes.items():
            members = dict.fromkeys(root for leaf in (representative, *leaves) for root in self.solver.leaves(leaf))
            if len(members) > 1 and not any(self.solver.reason(root) for root in members):
                reason = next(self.reasons[leaf] for leaf in leaves if leaf in self.reasons)
                balances.append((tuple(Known(self.solver.size(root), root) for root in members), reason))
        return Settled(tuple(attributes.items()), tuple(balances))

    def _keep_unlike(self) -> bool:
        """Pin what may become equal by losing indices, though forward goes another way where it is."""
        changed = False
        for pair in self.unlike:
            left, right = self._settled_value(pair.left), self._settled_value(pair.right)
            if left is not None and right is not None:
                left, right = difference(*without_common_factor(left, right))
                fixed = [side.get((), 0) for side in (left, right) if not any(side)]
                if len(fixed) == 2 or (fixed and (fixed[0] <= 1 or self._size_of(right if any(right) else left) < fixed[0])):
                    continue
            for leaf in (*self._mentioned(pair.left), *self._mentioned(pair.right)):
                if self.solver.reason(leaf) is None:
                    self.solver.pin(leaf, f"forward takes another branch where it equals another size ({pair.where})")
                    changed = True
        return changed

    def _settled_value(self, side: Expression) -> Polynomial | None:
        """The value of an expression in which attributes that nothing has settled keep theirs."""
        if isinstance(side, Attribute) and side.path not in self.known:
            term = next((follower.term for follower in self.following if follower.attribute.path == side.path), None)
            return self._constant(side.value) if term is None else self._polynomial(self.solver.term(term))
        if isinstance(side, Arithmetic) and side.op in "+-*":
            left, right = self._settled_value(side.left), self._settled_value(side.right)
            return None if left is None or right is None else combine(side.op, left, right)
        return self._value(side)

    @staticmethod
    def _constant(value: int) -> Polynomial:
        return {(): value} if value else {}

    def _round(self) -> bool:
        """One pass over the open equations; true if something was pinned, balanced or solved, so that another may help."""
        progress = self._spread_pins()
        still_open = []
        for equation in self.equations:
            outcome = self._solve(equation)
            progress = progress or outcome != "waiting"
            if outcome != "done":
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
                    self.known[path] = ({(): value}, None)
                    return True
        return False

    def _unknown(self, side: Expression | Term) -> dict[str, int]:
        """The attributes of an expression that nothing has settled yet, with their present values."""
        if isinstance(side, Attribute):
            return {} if side.path in self.known else {side.path: side.value}
        if isinstance(side, Arithmetic):
            return {**self._unknown(side.left), **self._unknown(side.right)}
        return {}

    def _spread_pins(self) -> bool:
        """A class with a pinned member, or with one that no parameter holds, is pinned as a whole."""
        held = {leaf for axis in self.held for leaf in self.solver.leaves(self.solver.term(axis))} if self.balanced else set()
        changed = self._join_copies(held)
        for root in [root for leaf in self.balanced for root in self.solver.leaves(leaf)]:
            if self.held and root not in held and self.solver.reason(root) is None:
                self.solver.pin(root, "no parameter holds it")
                changed = True
        for leaf in list(self.balanced):
            representative = self._class(leaf)
            for one, other in ((leaf, representative), (representative, leaf)):
                reasons = [r for root in self.solver.leaves(one) if (r := self.solver.reason(root)) is not None]
                for root in self.solver.leaves(other):
                    if reasons and self.solver.reason(root) is None:
                        self.solver.pin(root, f"{_KEEPS}: {reasons[0].removeprefix(_KEEPS + ': ')}")
                        changed = True
        return changed

    def _join_copies(self, held: set[int]) -> bool:
        """Repetitions that must be as many as the indices of a parameter's axis lose the same ones as that."""
        changed = False
        copies = (
            {leaf for axis in self.copies for leaf in self.solver.leaves(self.solver.term(axis))} if self.balanced else set()
        )
        for leaf in list(self.balanced):
            (root, *others) = self.solver.leaves(leaf) or (leaf,)
            if others or root in held or root not in copies or self.solver.reason(root) is not None:
                continue
            partner = next(
                (other for other in self.balanced if self._class(other) == self._class(leaf) and other in held), None
            )
            if partner is not None and self.solver.size(partner) == self.solver.size(root):
                self.solver.unify(root, partner, self.reasons.get(leaf, "a repetition"))
                changed = True
        return changed

    def _solve(self, equation: _Equation) -> str:
        """Use one equation: ``done``, ``changed`` (something was pinned or balanced), or ``waiting``."""
        left, right = self._value(equation.left), self._value(equation.right)
        if left is not None and right is not None:
            if left == right or not (any(left) or any(right)):
                return "done"
            self._reconcile(left, right, equation)
            return "changed"
        if (left is None) == (right is None):
            return "waiting"
        quotient = self._quotient(equation.left, right) or self._quotient(equation.right, left)
        if quotient is not None:
            if quotient[0] == quotient[1] or not (any(quotient[0]) or any(quotient[1])):
                return "done"
            self._reconcile(*quotient, equation)
            return "changed"
        side, target = (equation.left, right) if left is None else (equation.right, left)
        assert target is not None
        solved = self._invert(side, target)
        if solved is None or any(count < 0 for count in solved[1].values()):
            return "waiting"
        attribute, polynomial = solved
        if self._size_of(polynomial) != attribute.value:
            return "waiting"  # a division that left a remainder: the attribute cannot be told from the quotient
        other = equation.right if left is None else equation.left
        direct = isinstance(side, Attribute)
        term = other if direct and isinstance(other, TERMS) else None
        self.known[attribute.path] = (polynomial, term)
        return "done"

    def _quotient(self, side: Expression | Term, target: Polynomial | None) -> tuple[Polynomial, Polynomial] | None:
        """``a // b == target`` as ``a == b * target``, where it comes out even now and polynomials do not divide."""
        if target is None or not isinstance(side, Arithmetic) or side.op != "//":
            return None
        dividend, divisor = self._value(side.left), self._value(side.right)
        if dividend is None or divisor is None:
            return None
        multiple = combine("*", divisor, target) or {}
        return (dividend, multiple) if self._size_of(dividend) == self._size_of(multiple) else None

    def _size_of(self, polynomial: Polynomial) -> int:
        return sum(count * prod(map(self.solver.size, monomial)) for monomial, count in polynomial.items())

    def _value(self, side: Expression | Term) -> Polynomial | None:
        if isinstance(side, TERMS):
            return self._polynomial(self.solver.term(side))
        if isinstance(side, Literal):
            return {(): side.value} if side.value else {}
        if isinstance(side, AxisSize):
            return self._polynomial(self._axis(side))
        if isinstance(side, Attribute):
            found = self.known.get(side.path)
            return None if found is None else self._refreshed(found[0])
        if isinstance(side, Computed):
            sources = [self._value(source) for source in side.sources]
            constant = all(source is not None and not any(source) for source in sources)
            return ({(): side.value} if side.value else {}) if constant else None
        left, right = self._value(side.left), self._value(side.right)
        if left is None or right is None:
            return None
        if side.op == "//" and not any(left) and not any(right):
            floor = left.get((), 0) // right[()]
            return {(): floor} if floor else {}
        return combine(side.op, left, right)

    def _invert(self, side: Expression | Term, target: Polynomial) -> tuple[Attribute, Polynomial] | None:
        """Solve ``side == target`` for its one unknown attribute."""
        if isinstance(side, Attribute):
            return side, target
        if not isinstance(side, Arithmetic):
            return None
        left, right = self._value(side.left), self._value(side.right)
        if (left is None) == (right is None):
            return None
        undone: Polynomial | None
        if left is None:
            assert right is not None
            inverse = {"+": "-", "-": "+", "*": "//", "//": "*"}[side.op]
            undone = combine(inverse, target, right)
            return None if undone is None else self._invert(side.left, undone)
        undone = combine(
            {"+": "-", "-": "-", "*": "//", "//": "//"}[side.op], *((left, target) if side.op in "-//" else (target, left))
        )
        return None if undone is None else self._invert(side.right, undone)

    def _reconcile(self, left: Polynomial, right: Polynomial, equation: _Equation) -> None:
        """Make two polynomials equal with as little coupling as possible; where nothing else helps, pin them."""
        ours, theirs = without_common_factor(*difference(*without_common_factor(left, right)))
        for one, other in ((ours, theirs), (theirs, ours)):
            if len(one) == 1:
                (monomial, count), *_ = one.items()
                if len(monomial) == 1 and count == 1 and self._follow(monomial[0], other, equation.where):
                    return
        if self._pair(ours, theirs, equation.where) or self._match(ours, theirs, equation.where):
            return
        reason = f"its size must agree with another one in a way that only the present sizes do ({equation.where})"
        for polynomial in (left, right):
            for monomial in polynomial:
                for leaf in monomial:
                    self.solver.pin(leaf, reason)

    def _pair(self, ours: Polynomial, theirs: Polynomial, where: str) -> bool:
        """Two products of equally large atoms: balance them one by one, as the heads of layers that share a config."""
        if len(ours) != 1 or len(theirs) != 1:
            return False
        (m, c), (n, d) = next(iter(ours.items())), next(iter(theirs.items()))
        pairs = list(zip(sorted(m, key=self._size_and_id), sorted(n, key=self._size_and_id), strict=False))
        if c != d or len(m) != len(n) or any(self.solver.size(a) != self.solver.size(b) for a, b in pairs):
            return False
        for a, b in pairs:
            self._balance(a, b, where)
        return True

    def _size_and_id(self, leaf: int) -> tuple[int, int]:
        return self.solver.size(leaf), leaf

    def _follow(self, leaf: int, target: Polynomial, where: str) -> bool:
        """Let one atom have the size of a product: balanced with an atom, or factored."""
        if len(target) != 1:
            return False
        (monomial, count), *_ = target.items()
        if count == 1 and len(monomial) == 1:
            self._balance(leaf, monomial[0], where)
            return True
        if count == 1 and monomial and leaf not in self.balanced:
            factors = tuple(Known(self.solver.size(factor), factor) for factor in monomial)
            self.solver.unify(leaf, self.solver.term(Times(factors)), where)
            return True
        return False

    def _match(self, ours: Polynomial, theirs: Polynomial, where: str) -> bool:
        """Two sums of atoms and constants: laid side by side, what lies opposite is balanced, longer atoms are cut.

        The order does not depend on the sizes, so that a smaller model is matched in the same way.
        """
        if any(len(monomial) > 1 for monomial in (*ours, *theirs)) or sum((*ours.values(), *theirs.values())) > 2 * _MANY:
            return False
        left, right = self._laid_out(ours), self._laid_out(theirs)
        while left and right:
            left[:1], right[:1] = (
                self._laid_out(self._refreshed(dict(left[:1]))),
                self._laid_out(self._refreshed(dict(right[:1]))),
            )
            (p, m), (q, n) = ((item[0], self._size_of(dict([item]))) for item in (left[0], right[0]))
            short = min(m, n)
            for side, monomial, size in ((left, p, m), (right, q, n)):
                if size > short:
                    side[:1] = (
                        [(monomial, short), (monomial, size - short)] if not monomial else self._cut(monomial[0], short, where)
                    )
            (p, _), (q, _) = left.pop(0), right.pop(0)
            if p and q:
                self._balance(p[0], q[0], where)
            elif p or q:
                self._fix((p or q)[0], where)
        return True

    def _fix(self, leaf: int, where: str) -> None:
        """Let an atom keep its size: as single indices, which is what groups that are cut down to one leave of themselves."""
        if leaf in self.balanced or self.solver.size(leaf) > _MANY:
            self.solver.pin(leaf, f"{_KEEPS} ({where})")
        else:
            self.solver.unify(leaf, self.solver.term(Plus((Fresh(1),) * self.solver.size(leaf))), where)

    def _laid_out(self, polynomial: Polynomial) -> list[tuple[Monomial, int]]:
        """The atoms of a sum one by one in the order of their numbers, and its constant last."""
        atoms = [(monomial, 1) for monomial, count in sorted(polynomial.items()) if monomial for _ in range(count)]
        return [*atoms, ((), polynomial[()])] if () in polynomial else atoms

    def _cut(self, leaf: int, at: int, where: str) -> list[tuple[Monomial, int]]:
        """Cut an atom, and all that are balanced with it, in two; the pieces are balanced in their turn."""
        representative = self._class(leaf)
        members = [other for other in self.balanced if self._class(other) == representative] or [leaf]
        for member in members:
            self.balanced.pop(member, None)
        pieces = []
        for member in members:
            sizes = at, self.solver.size(member) - at
            fresh = tuple(map(Fresh, sizes))
            self.solver.unify(member, self.solver.term(Plus(fresh)), where)
            pieces.append([self.solver.term(part) & ~1 for part in fresh])
        for first, *others in zip(*pieces, strict=True):
            for other in others:
                self._balance(first, other, self.reasons.get(leaf, where))
        return [self._laid_out(self._polynomial(piece))[0] for piece in pieces[0]]

    def _pin_equation(self, equation: _Equation) -> bool:
        """No attribute could be solved for: whatever the equation mentions stays as it is."""
        changed = False
        for side in (equation.left, equation.right):
            for leaf in self._mentioned(side):
                if self.solver.reason(leaf) is None:
                    self.solver.pin(leaf, f"forward computes its size in a way that is not understood ({equation.where})")
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
        if isinstance(side, Attribute) and side.path in self.known:
            return [leaf for monomial in self._refreshed(self.known[side.path][0]) for leaf in monomial]
        return []

    def _balance(self, one: int, other: int, reason: str) -> None:
        a, b = self._class(one), self._class(other)
        self.reasons.setdefault(one, reason)
        self.reasons.setdefault(other, reason)
        low, high = min(a, b), max(a, b)
        self.balanced[high] = low
        self.balanced.setdefault(low, low)

    def _class(self, leaf: int) -> int:
        while self.balanced.get(leaf, leaf) != leaf:
            leaf = self.balanced[leaf]
        return leaf

    def _polynomial(self, root: int) -> Polynomial:
        size = self.solver.size(root)
        if size == 1:
            return {(): 1}
        leaf = self.solver.variable(root)
        if leaf is None:
            leaves = self.solver.leaves(root)
            leaf = leaves[0] if len(leaves) == 1 and self.solver.size(leaves[0]) == size else None
        if leaf is not None:
            return {(): size} if self.solver.reason(leaf) else {(self._class(leaf),): 1}
        parts = self.solver.parts(root)
        if len(parts) > 1:
            total: Polynomial = {}
            for part in parts:
                total = combine("+", total, self._polynomial(part)) or {}
            return total
        result: Polynomial = {(): 1}
        for factor in self.solver.factors(root):
            result = combine("*", result, self._polynomial(factor)) or {}
        return result

    def _refreshed(self, polynomial: Polynomial) -> Polynomial:
        """The same polynomial after atoms in it were balanced, split or pinned."""
        total: Polynomial = {}
        for monomial, count in polynomial.items():
            term: Polynomial = {(): count}
            for leaf in monomial:
                term = combine("*", term, self._polynomial(leaf)) or {}
            total = combine("+", total, term) or {}
        return total

    def _term_of(self, polynomial: Polynomial) -> Term:
        """A term of that size; it occurs in no tensor."""
        parts: list[Term] = []
        for monomial, count in sorted(polynomial.items()):
            factors: tuple[Term, ...] = tuple(Known(self.solver.size(leaf), leaf) for leaf in monomial) or (Fresh(1),)
            if count <= _MANY:
                parts.extend(Times(factors) for _ in range(count))
                continue
            constant = Fresh(count)
            self.solver.state(Pin(constant, "it is a constant factor of an attribute"), "an attribute")
            parts.append(Times((constant, *factors)))
        return parts[0] if len(parts) == 1 else Plus(tuple(parts))
