"""Solve equations between axes: union-find inside, pure outside.

A variable is an axis or a fresh space. Unification binds variables to products and sums of variables, splitting factors
and segments as far as the equations force it, down to single indices where nothing coarser fits. What stays unsplit are the
atoms. Factors that have no common divisor cannot be expressed by one another: they are pinned, with the reason.

Each variable or structure has two neighbouring numbers, one for each direction in which it is read: `forwards` and `reversed_`
go from one to the other, and nothing else in the package looks into a number. Every list has an entry for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from math import gcd, prod
from types import MappingProxyType

from attrs import frozen

from depgraph.algebra.spaces import UNIT, Atom, Space, backwards, laid_end_to_end, product
from depgraph.errors import RuleError
from depgraph.solving.statements import Axis, Backwards, Equal, Fresh, Known, Pin, Term, Times


class Kind(IntEnum):
    """What a number of the solver stands for."""

    VARIABLE = 0
    PRODUCT = 1
    SUM = 2


_VARIABLE, _PRODUCT, _SUM = Kind


def reversed_(root: int) -> int:
    """The same variable or structure, read in the other direction."""
    return root ^ 1


def forwards(root: int) -> int:
    """The same variable or structure, read forwards."""
    return root & ~1


def is_reversed(root: int) -> bool:
    """Whether a variable or structure is read backwards."""
    return bool(root & 1)


@frozen
class Solution:
    """The space of each term, and the pinned atoms with their reasons."""

    spaces: Mapping[Term, Space]
    pins: Mapping[Atom, str]


class Solver:
    """Collects statements; `solution` reads the answer off. A value of this class never leaves the function that made it."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._kind: list[Kind] = []
        self._children: list[tuple[int, ...]] = []
        self._reason: list[str | None] = []
        self._variables: dict[Axis | Fresh, int] = {}

    def state(self, statement: Equal | Pin, where: str) -> None:
        """Take in one statement; `where` completes the reason if it cannot be expressed."""
        if isinstance(statement, Equal):
            if type(statement.left) is Axis and statement.left.size == statement.right.size == 1:
                return
            left, right = self.term(statement.left), self.term(statement.right)
            if left == right:
                return
            if self.size(left) != self.size(right):
                raise RuleError(
                    f"{where}: the rule equates sizes {self.size(left)} and {self.size(right)}; correct the operator's rule."
                )
            self.unify(left, right, where)
        else:
            self.pin(self.term(statement.term), statement.reason)

    def term(self, term: Term) -> int:
        """The variable or structure that stands for a term."""
        if isinstance(term, (Axis, Fresh)):
            variable = self._variables.get(term)
            if variable is None:
                variable = self._variables[term] = self._variable(term.size)
            return self._find(variable)
        if isinstance(term, Known):
            return self._find(term.root)
        if isinstance(term, Backwards):
            return reversed_(self.term(term.term))
        if isinstance(term, Times):
            return self._structure(_PRODUCT, [self.term(factor) for factor in term.factors])
        return self._structure(_SUM, [self.term(part) for part in term.parts])

    def pin(self, root: int, reason: str) -> None:
        """Forbid any removal from the atoms below; the first reason stays."""
        root = self._find(root)
        if self._kind[root] is _VARIABLE:
            if self._reason[root] is None:
                self._reason[root] = self._reason[reversed_(root)] = reason
        else:
            for child in self._children[root]:
                self.pin(child, reason)

    def leaves(self, root: int) -> list[int]:
        """The variables of which a term is made, read forwards, in reading order, without those of size 1."""
        root = self._find(root)
        if self._size[root] == 1:
            return []
        if self._kind[root] is _VARIABLE:
            return [forwards(root)]
        return [leaf for child in self._children[root] for leaf in self.leaves(child)]

    def variable(self, root: int) -> int | None:
        """The variable that a term is, read forwards; None for a structure."""
        root = self._find(root)
        return forwards(root) if self._kind[root] is _VARIABLE else None

    def reason(self, leaf: int) -> str | None:
        """Why a variable is pinned."""
        return self._reason[self._find(leaf)]

    def factors(self, root: int) -> list[int]:
        """The canonical flat factors of a term, without those of size 1."""
        root = self._find(root)
        if self.size(root) == 1:
            return []
        if self._kind[root] is _PRODUCT:
            return [factor for child in self._children[root] for factor in self.factors(child)]
        return [root]

    def parts(self, root: int) -> list[int]:
        """The flat parts of a term."""
        root = self._find(root)
        if self._kind[root] is _SUM:
            return [part for child in self._children[root] for part in self.parts(child)]
        return [root]

    def size(self, root: int) -> int:
        """The size of a term."""
        return self._size[root]

    def solution(self, terms: Iterable[Term]) -> Solution:
        """The space of each term. Atoms are numbered in the order in which they are first read."""
        numbers: dict[int, Atom] = {}
        memo: dict[int, Space] = {}
        spaces = {term: self._space(self.term(term), numbers, memo) for term in terms}
        pins = {atom: reason for variable, atom in numbers.items() if (reason := self._reason[variable]) is not None}
        return Solution(MappingProxyType(spaces), MappingProxyType(pins))

    def _space(self, root: int, numbers: dict[int, Atom], memo: dict[int, Space]) -> Space:
        """The space of a variable or structure; atoms that are read for the first time get the next number."""
        root = self._find(root)
        result = memo.get(root)
        if result is not None:
            return result
        if self.size(root) == 1:
            result = UNIT
        elif self._kind[root] is _VARIABLE:
            atom = numbers.setdefault(forwards(root), Atom(len(numbers), self.size(root)))
            result = backwards(atom) if is_reversed(root) else atom
        else:
            children = [self._space(child, numbers, memo) for child in self._children[root]]
            result = product(*children) if self._kind[root] is _PRODUCT else laid_end_to_end(*children)
        memo[root] = result
        return result

    def _variable(self, size: int) -> int:
        return self._node(_VARIABLE, int(size), ())  # a size with a provenance stays in no graph

    def _node(self, kind: Kind, size: int, children: tuple[int, ...]) -> int:
        """A new variable or structure, read forwards. Backwards, its children are so too, those of a sum from the last one."""
        backward_children = tuple([reversed_(child) for child in children]) if children else ()
        root = len(self._parent)
        self._parent += (root, reversed_(root))
        self._size += (size, size)
        self._kind += (kind, kind)
        self._children += (children, backward_children[::-1] if kind is _SUM else backward_children)
        self._reason += (None, None)
        return root

    def _structure(self, kind: Kind, children: list[int]) -> int:
        """A product or sum of terms without its neutral elements; of one term that is the term itself."""
        neutral = 1 if kind is _PRODUCT else 0
        sizes = self._size
        operands = [child for child in children if sizes[child] != neutral]
        if len(operands) == 1:
            return operands[0]
        each = [sizes[operand] for operand in operands]
        return self._node(kind, prod(each) if kind is _PRODUCT else sum(each), tuple(operands))

    def _find(self, root: int) -> int:
        parent = self._parent
        up = parent[root]
        while up != root:
            parent[root] = root = parent[up]  # halve the path, for the next time
            up = parent[root]
        return root

    def _let_stand(self, root: int, target: int) -> None:
        """Let one number stand for another one, in both directions of reading."""
        self._parent[root] = target
        self._parent[reversed_(root)] = reversed_(target)

    def _bind(self, variable: int, target: int) -> None:
        """Let a variable be a term; if it was pinned, the term is pinned."""
        self._let_stand(variable, target)
        reason = self._reason[variable]
        if reason is not None:
            self.pin(target, reason)

    def _pin_coprime(self, roots: Iterable[int], where: str) -> None:
        """Pin factors that no index map relates, such as those of 2 x 3 read as 3 x 2."""
        for root in roots:
            self.pin(root, f"{where}: the sizes on both sides do not nest, so no index map can be given")

    def unify(self, left: int, right: int, where: str) -> None:
        """Make two terms of equal size range over the same space."""
        left, right = self._find(left), self._find(right)
        if left == right or self._size[left] <= 1:
            return
        kinds = self._kind[left], self._kind[right]
        if left == reversed_(right) and kinds[0] is _VARIABLE:
            self._fold(left)
        elif kinds[0] is _VARIABLE:
            self._bind(left, right)
        elif kinds[1] is _VARIABLE:
            self._bind(right, left)
        elif kinds == (_SUM, _SUM):
            self._match_sums(left, right, where)
        elif kinds == (_PRODUCT, _PRODUCT):
            self._match_products(left, right, where)
        elif kinds[0] is _SUM:
            self._distribute(left, right, where)
        else:
            self._distribute(right, left, where)

    def _fold(self, variable: int) -> None:
        """A variable is equal to itself backwards: its second half is its first one backwards."""
        half = self._variable(self.size(variable) // 2)
        middle = [self._variable(1)] if self.size(variable) % 2 else []
        self._bind(variable, self._structure(_SUM, [half, *middle, reversed_(half)]))

    def _match_products(self, left: int, right: int, where: str) -> None:
        """Match the factors of two products from both ends; what remains has no common divisor."""
        a, b = self.factors(left), self.factors(right)
        self._match_from(a, b, where, last=False)
        self._match_from(a, b, where, last=True)
        if a or b:
            self._pin_coprime([*a, *b], where)
        else:
            self._merge(left, right)

    def _match_from(self, a: list[int], b: list[int], where: str, last: bool) -> None:
        """Match factors from one end while they have a common divisor; matched factors leave the lists."""
        end = -1 if last else 0
        while a and b:
            if len(a) == 1 and len(b) == 1:
                self.unify(a.pop(), b.pop(), where)
                return
            f, g = self._find(a[end]), self._find(b[end])
            common = gcd(self.size(f), self.size(g))
            if common == 1:
                return
            shared = self._variable(common)
            for side, factor in ((a, f), (b, g)):
                rest = self.size(factor) // common
                if rest == 1:
                    self.unify(factor, shared, where)
                    side.pop(end)
                else:
                    side[end] = self._variable(rest)
                    self.unify(factor, self._structure(_PRODUCT, [side[end], shared] if last else [shared, side[end]]), where)

    def _match_sums(self, left: int, right: int, where: str) -> None:
        """Match the parts of two sums from the first one on, the longer one cut at the end of the shorter one."""
        a, b = self.parts(left), self.parts(right)
        i = j = 0
        while i < len(a) and j < len(b):
            p, q = self._find(a[i]), self._find(b[j])
            if self.size(p) == self.size(q):
                self.unify(p, q, where)
                i, j = i + 1, j + 1
                continue
            small, large, parts, at = (p, q, b, j) if self.size(p) < self.size(q) else (q, p, a, i)
            parts[at : at + 1] = self._cut(large, self.size(small))
        self._merge(left, right)

    def _cut(self, root: int, at: int) -> list[int]:
        """Split a term in two segments, the first of size `at`.

        Where the place lies inside of a block of a product, that block's index of the first factor is set apart.
        """
        root = self._find(root)
        if self._kind[root] is _VARIABLE:
            pieces = [self._variable(at), self._variable(self.size(root) - at)]
            self._bind(root, self._structure(_SUM, pieces))
            return pieces
        if self._kind[root] is _SUM:
            before = []
            after = self.parts(root)
            while self.size(after[0]) <= at:
                at -= self.size(after[0])
                before.append(after.pop(0))
            if at:
                first, after[0] = self._cut(after[0], at)
                before.append(first)
            return [self._structure(_SUM, before), self._structure(_SUM, after)]
        first, *others = self.factors(root)
        rest = self._structure(_PRODUCT, others)
        whole, inside = divmod(at, self.size(rest))
        before, across, after = [], [], [first]
        if whole:
            head, tail = self._cut(first, whole)
            before, after = [self._structure(_PRODUCT, [head, rest])], [tail]
        if inside:
            across = self._cut(rest, inside)
            after = self._cut(after[0], 1)[1:] if self.size(after[0]) > 1 else []
            before.append(across.pop(0))
        behind = [*across, *(self._structure(_PRODUCT, [piece, rest]) for piece in after)]
        return [self._structure(_SUM, before), self._structure(_SUM, behind)]

    def _distribute(self, total: int, factored: int, where: str) -> None:
        """A sum meets a product: cut the product where the segments end."""
        *parts, last = self.parts(total)
        remaining = factored
        for part in parts:
            piece, remaining = self._cut(remaining, self.size(part))
            self.unify(part, piece, where)
        self.unify(last, remaining, where)
        self._merge(total, factored)

    def _merge(self, left: int, right: int) -> None:
        """Two structures are equal part by part: let one stand for both."""
        left, right = self._find(left), self._find(right)
        if forwards(left) != forwards(right):
            self._let_stand(left, right)
