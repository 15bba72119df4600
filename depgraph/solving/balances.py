"""Atoms that must stay equally long: which are balanced with each other, and how sums and products of sizes are made equal."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from depgraph.algebra.partitions import Partition
from depgraph.algebra.polynomials import Monomial, Polynomial
from depgraph.solving.statements import Axis, Fresh, Known, Pin, Plus, Term, Times
from depgraph.solving.unification import Solver, forwards

_MAX_CONSTANT = 64
"""More constant positions than this in one size are pinned rather than laid out one by one."""


_ONE = Polynomial.constant(1)


_SIZE_REASON = "it must keep the size of a pinned axis"


class Balancing:
    """Sizes of a solver's terms as polynomials in its free atoms, of which some are balanced. It does not leave `settle`."""

    def __init__(self, solver: Solver, parameter_axes: Sequence[Axis], copies: Sequence[Axis]) -> None:
        self.solver = solver
        self.parameter_axes = parameter_axes
        self.copies = copies
        self.balanced: Partition[int] = Partition()
        self.reasons: dict[int, str] = {}

    def polynomial(self, root: int) -> Polynomial:
        """The size of a term in its free atoms, one for all that are balanced with each other."""
        size = self.solver.size(root)
        if size == 1:
            return _ONE
        leaf = self.solver.variable(root)
        if leaf is None:
            leaves = self.solver.leaves(root)
            leaf = leaves[0] if len(leaves) == 1 and self.solver.size(leaves[0]) == size else None
        if leaf is not None:
            fixed = self.solver.reason(leaf) is not None
            return Polynomial.constant(size) if fixed else Polynomial.variable(self.balanced.representative(leaf))
        parts = self.solver.parts(root)
        if len(parts) > 1:
            return Polynomial.sum(map(self.polynomial, parts))
        return prod(map(self.polynomial, self.solver.factors(root)), start=_ONE)

    def refreshed(self, polynomial: Polynomial) -> Polynomial:
        """The same polynomial after atoms in it were balanced, split or pinned."""
        terms = (prod(map(self.polynomial, monomial), start=Polynomial.constant(count)) for monomial, count in polynomial.terms)
        return Polynomial.sum(terms)

    def size_of(self, polynomial: Polynomial) -> int:
        """The value at the present sizes."""
        return polynomial.value({leaf: self.solver.size(leaf) for leaf in polynomial.variables})

    def term_of(self, polynomial: Polynomial) -> Term:
        """A term of that size; it occurs in no tensor."""
        parts: list[Term] = []
        for monomial, count in polynomial.terms:
            factors: tuple[Term, ...] = tuple(Known(self.solver.size(leaf), leaf) for leaf in monomial) or (Fresh(1),)
            if count <= _MAX_CONSTANT:
                parts.extend(Times(factors) for _ in range(count))
                continue
            constant = Fresh(count)
            self.solver.state(Pin(constant, "it is a constant factor of an attribute"), "an attribute")
            parts.append(Times((constant, *factors)))
        return parts[0] if len(parts) == 1 else Plus(tuple(parts))

    def balance(self, one: int, other: int, reason: str) -> None:
        """Let two atoms lose equally many indices, each its own."""
        self.reasons.setdefault(one, reason)
        self.reasons.setdefault(other, reason)
        self.balanced.join(*sorted(map(self.balanced.representative, (one, other))))

    def members(self, leaf: int) -> list[int]:
        """The free atoms that are balanced with an atom, itself among them."""
        members = self.balanced.representative(leaf), *self.balanced.members(leaf)
        roots = dict.fromkeys(root for member in members for root in self.solver.leaves(member))
        return [root for root in roots if self.solver.reason(root) is None]

    def balances(self) -> tuple[tuple[tuple[Term, ...], str], ...]:
        """What is balanced in the end, with the reasons."""
        classes: dict[int, list[int]] = {}
        for leaf in self.balanced:
            classes.setdefault(self.balanced.representative(leaf), []).append(leaf)
        result = []
        for representative, leaves in classes.items():
            members = dict.fromkeys(root for leaf in (representative, *leaves) for root in self.solver.leaves(leaf))
            if len(members) > 1 and not any(self.solver.reason(root) for root in members):
                reason = next(self.reasons[leaf] for leaf in leaves if leaf in self.reasons)
                result.append((tuple(Known(self.solver.size(root), root) for root in members), reason))
        return tuple(result)

    def parameter_leaves(self) -> set[int] | None:
        """The atoms that stand in a parameter; None where nothing is known of parameters."""
        if not self.parameter_axes:
            return None
        return {leaf for axis in self.parameter_axes for leaf in self.solver.leaves(self.solver.term(axis))}

    def spread_pins(self) -> bool:
        """A class with a pinned member, or with one that no parameter holds, is pinned as a whole."""
        in_parameters = (self.parameter_leaves() or set()) if self.balanced else set()
        changed = self._join_copies(in_parameters)
        for root in [root for leaf in self.balanced for root in self.solver.leaves(leaf)]:
            if self.parameter_axes and root not in in_parameters and self.solver.reason(root) is None:
                self.solver.pin(root, "no parameter holds it")
                changed = True
        for leaf in list(self.balanced):
            representative = self.balanced.representative(leaf)
            for one, other in ((leaf, representative), (representative, leaf)):
                reasons = [r for root in self.solver.leaves(one) if (r := self.solver.reason(root)) is not None]
                for root in self.solver.leaves(other):
                    if reasons and self.solver.reason(root) is None:
                        self.solver.pin(root, f"{_SIZE_REASON}: {reasons[0].removeprefix(_SIZE_REASON + ': ')}")
                        changed = True
        return changed

    def _join_copies(self, in_parameters: set[int]) -> bool:
        """A repetition that must be as long as a parameter's axis loses the same indices as that axis."""
        changed = False
        copies = (
            {leaf for axis in self.copies for leaf in self.solver.leaves(self.solver.term(axis))} if self.balanced else set()
        )
        for leaf in list(self.balanced):
            (root, *others) = self.solver.leaves(leaf) or (leaf,)
            if others or root in in_parameters or root not in copies or self.solver.reason(root) is not None:
                continue
            partner = next((other for other in self.balanced.members(leaf) if other in in_parameters), None)
            if partner is not None and self.solver.size(partner) == self.solver.size(root):
                self.solver.unify(root, partner, self.reasons.get(leaf, "a repetition"))
                changed = True
        return changed

    def reconcile(self, left: Polynomial, right: Polynomial, where: str) -> None:
        """Make two polynomials equal with as little coupling as possible; where nothing else helps, pin them."""
        left_rest, right_rest = left.without_common_factor(right)
        left_rest, right_rest = left_rest.difference(right_rest)
        left_rest, right_rest = left_rest.without_common_factor(right_rest)
        for one, other in ((left_rest, right_rest), (right_rest, left_rest)):
            if len(one.terms) == 1:
                ((monomial, count),) = one.terms
                if len(monomial) == 1 and count == 1 and self._follow(monomial[0], other, where):
                    return
        if self._pair(left_rest, right_rest, where) or self._match(left_rest, right_rest, where):
            return
        reason = f"its size must agree with another one in a way that only the present sizes do ({where})"
        for leaf in (*left.variables, *right.variables):
            self.solver.pin(leaf, reason)

    def _pair(self, left: Polynomial, right: Polynomial, where: str) -> bool:
        """Two products of equally large atoms: balance them one by one, as the heads of layers that share a config."""
        if len(left.terms) != 1 or len(right.terms) != 1:
            return False
        (m, c), (n, d) = *left.terms, *right.terms
        pairs = list(zip(sorted(m, key=self._size_and_id), sorted(n, key=self._size_and_id), strict=False))
        if c != d or len(m) != len(n) or any(self.solver.size(a) != self.solver.size(b) for a, b in pairs):
            return False
        for a, b in pairs:
            self.balance(a, b, where)
        return True

    def _size_and_id(self, leaf: int) -> tuple[int, int]:
        return self.solver.size(leaf), leaf

    def _follow(self, leaf: int, target: Polynomial, where: str) -> bool:
        """Let one atom have the size of a product: balanced with an atom, or with factors of its own that are."""
        if len(target.terms) != 1:
            return False
        ((monomial, count),) = target.terms
        if count == 1 and len(monomial) == 1:
            self.balance(leaf, monomial[0], where)
            return True
        if count == 1 and monomial and leaf not in self.balanced:
            order = self._in_an_axis(monomial)
            factors = tuple(Fresh(self.solver.size(atom)) for atom in order)
            self.solver.unify(leaf, self.solver.term(Times(factors)), where)
            for atom, factor in zip(order, factors, strict=True):  # equally many indices, each its own
                self.balance(atom, forwards(self.solver.term(factor)), where)
            return True
        return False

    def _in_an_axis(self, monomial: Monomial) -> Monomial:
        """The atoms of a product in the order in which a parameter's axis has them, such as heads before head dims."""
        for axis in self.parameter_axes:
            leaves = self.solver.leaves(self.solver.term(axis))
            if set(monomial) <= set(leaves):
                return tuple(sorted(monomial, key=leaves.index))
        return monomial

    def _match(self, one: Polynomial, other: Polynomial, where: str) -> bool:
        """Two sums of atoms and constants: laid side by side, atoms that lie opposite are balanced, longer ones are cut before.

        The order does not depend on the sizes, so that a smaller model is matched in the same way.
        """
        terms = (*one.terms, *other.terms)
        if any(len(monomial) > 1 for monomial, _ in terms) or sum(count for _, count in terms) > 2 * _MAX_CONSTANT:
            return False
        left, right = self._laid_out(one), self._laid_out(other)
        while left and right:
            left[:1], right[:1] = (
                self._laid_out(self.refreshed(Polynomial(dict(left[:1])))),
                self._laid_out(self.refreshed(Polynomial(dict(right[:1])))),
            )
            (p, m), (q, n) = ((item[0], self.size_of(Polynomial(dict([item])))) for item in (left[0], right[0]))
            short = min(m, n)
            for side, monomial, size in ((left, p, m), (right, q, n)):
                if size > short:
                    side[:1] = (
                        [(monomial, short), (monomial, size - short)] if not monomial else self._cut(monomial[0], short, where)
                    )
            (p, _), (q, _) = left.pop(0), right.pop(0)
            if p and q:
                self.balance(p[0], q[0], where)
            elif p or q:
                self._fix((p or q)[0], where)
        return True

    def _fix(self, leaf: int, where: str) -> None:
        """Let an atom keep its size, as single indices: the same term as of a group that is already cut down to one index."""
        if leaf in self.balanced or self.solver.size(leaf) > _MAX_CONSTANT:
            self.solver.pin(leaf, f"{_SIZE_REASON} ({where})")
        else:
            self.solver.unify(leaf, self.solver.term(Plus((Fresh(1),) * self.solver.size(leaf))), where)

    def _laid_out(self, polynomial: Polynomial) -> list[tuple[Monomial, int]]:
        """The atoms of a sum one by one in the order of their numbers, and its constant last."""
        atoms = [(monomial, 1) for monomial, count in polynomial.terms if monomial for _ in range(count)]
        return [*atoms, *(term for term in polynomial.terms if not term[0])]

    def _cut(self, leaf: int, at: int, where: str) -> list[tuple[Monomial, int]]:
        """Cut an atom, and all that are balanced with it, in two; the pieces are balanced in their turn."""
        pieces = []
        for member in self.balanced.dissolve(leaf):
            sizes = at, self.solver.size(member) - at
            fresh = tuple(map(Fresh, sizes))
            self.solver.unify(member, self.solver.term(Plus(fresh)), where)
            pieces.append([forwards(self.solver.term(part)) for part in fresh])
        for first, *others in zip(*pieces, strict=True):
            for other in others:
                self.balance(first, other, self.reasons.get(leaf, where))
        return [self._laid_out(self.polynomial(piece))[0] for piece in pieces[0]]
