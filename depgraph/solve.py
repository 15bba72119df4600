"""Solve equations between axes: union-find inside, pure outside.

A variable is an axis or a fresh space. Unification binds variables to products and sums of variables, splitting factors
and segments as far as the equations force it. What stays unsplit are the atoms. An equation that cannot be expressed
in these terms pins everything it touches, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen

from depgraph.equations import Axis, Equal, Fresh, Known, Pin, Term, Times
from depgraph.errors import RuleError
from depgraph.spaces import UNIT, Atom, Space, laid_end_to_end, product

_VARIABLE, _PRODUCT, _SUM = 0, 1, 2


@frozen
class Solution:
    """Spaces of the asked terms, in the order of asking, and the pinned atoms with their reasons."""

    spaces: tuple[Space, ...]
    pins: Mapping[Atom, str]


class Solver:
    """Collects statements; `space` reads the answer off. A value of this class never leaves the function that made it."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._kind: list[int] = []
        self._children: list[tuple[int, ...]] = []
        self._pin: list[str | None] = []
        self._axis: dict[tuple[int, int], int] = {}
        self._fresh: dict[int, tuple[Fresh, int]] = {}

    def state(self, statement: Equal | Pin, where: str) -> None:
        """Take in one statement; `where` completes the reason if it cannot be expressed."""
        if isinstance(statement, Equal):
            left, right = self.term(statement.left), self.term(statement.right)
            if self._size[left] != self._size[right]:
                raise RuleError(
                    f"{where}: the rule equates sizes {self._size[left]} and {self._size[right]}; correct the operator's rule."
                )
            self.unify(left, right, where)
        else:
            self.pin(self.term(statement.term), statement.reason)

    def term(self, term: Term) -> int:
        """The variable or structure that stands for a term."""
        if isinstance(term, Axis):
            key = (term.value, term.dim)
            found = self._axis.get(key)
            if found is None:
                found = self._axis[key] = self._variable(term.size)
            return self._find(found)
        if isinstance(term, Fresh):
            entry = self._fresh.get(id(term))
            if entry is None:
                entry = self._fresh[id(term)] = (term, self._variable(term.size))
            return self._find(entry[1])
        if isinstance(term, Known):
            return self._find(term.root)
        if isinstance(term, Times):
            return self._structure(_PRODUCT, [self.term(factor) for factor in term.factors])
        return self._structure(_SUM, [self.term(part) for part in term.parts])

    def pin(self, root: int, reason: str) -> None:
        """Forbid any removal from the atoms below; the first reason stays."""
        root = self._find(root)
        if self._kind[root] == _VARIABLE:
            if self._pin[root] is None:
                self._pin[root] = reason
        else:
            for child in self._children[root]:
                self.pin(child, reason)

    def leaves(self, root: int) -> list[int]:
        """The variables of which a term is made, in reading order, without those of size 1."""
        root = self._find(root)
        if self._size[root] == 1:
            return []
        if self._kind[root] == _VARIABLE:
            return [root]
        return [leaf for child in self._children[root] for leaf in self.leaves(child)]

    def reason(self, leaf: int) -> str | None:
        """Why a variable is pinned."""
        return self._pin[self._find(leaf)]

    def factors(self, root: int) -> list[int]:
        """The canonical flat factors of a term, without those of size 1."""
        root = self._find(root)
        if self._size[root] == 1:
            return []
        if self._kind[root] == _PRODUCT:
            return [factor for child in self._children[root] for factor in self.factors(child)]
        return [root]

    def parts(self, root: int) -> list[int]:
        """The flat parts of a term."""
        root = self._find(root)
        if self._kind[root] == _SUM:
            return [part for child in self._children[root] for part in self.parts(child)]
        return [root]

    def size(self, root: int) -> int:
        """The size of a term."""
        return self._size[root]

    def solution(self, asked: Iterable[Term]) -> Solution:
        """The spaces of the asked terms. Atoms are numbered in reading order."""
        numbers: dict[int, Atom] = {}
        memo: dict[int, Space] = {}

        def space(root: int) -> Space:
            root = self._find(root)
            found = memo.get(root)
            if found is not None:
                return found
            if self._size[root] == 1:
                found = UNIT
            elif self._kind[root] == _VARIABLE:
                found = numbers[root] = Atom(len(numbers), self._size[root])
            elif self._kind[root] == _PRODUCT:
                found = product(*[space(child) for child in self._children[root]])
            else:
                found = laid_end_to_end(*[space(child) for child in self._children[root]])
            memo[root] = found
            return found

        spaces = tuple(space(self.term(term)) for term in asked)
        pins = {atom: reason for root, atom in numbers.items() if (reason := self._pin[root]) is not None}
        return Solution(spaces, pins)

    def _variable(self, size: int) -> int:
        return self._node(_VARIABLE, size, ())

    def _node(self, kind: int, size: int, children: tuple[int, ...]) -> int:
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._kind.append(kind)
        self._children.append(children)
        self._pin.append(None)
        return len(self._parent) - 1

    def _structure(self, kind: int, children: list[int]) -> int:
        neutral = 1 if kind == _PRODUCT else 0
        used = [child for child in children if self._size[child] != neutral]
        if len(used) == 1:
            return used[0]
        size = neutral
        for child in used:
            size = size * self._size[child] if kind == _PRODUCT else size + self._size[child]
        return self._node(kind, size, tuple(used))

    def _find(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def _bind(self, variable: int, target: int) -> None:
        self._parent[variable] = target
        reason = self._pin[variable]
        if reason is not None:
            self.pin(target, reason)

    def _give_up(self, nodes: Iterable[int], where: str) -> None:
        for node in nodes:
            self.pin(node, f"{where}: the sizes on both sides do not nest, so no index map can be given")

    def unify(self, left: int, right: int, where: str) -> None:
        """Make two terms of equal size range over the same space."""
        left, right = self._find(left), self._find(right)
        if left == right or self._size[left] <= 1:
            return
        if self._kind[left] == _VARIABLE:
            self._bind(left, right)
        elif self._kind[right] == _VARIABLE:
            self._bind(right, left)
        elif self._kind[left] == _SUM and self._kind[right] == _SUM:
            self._match_sums(left, right, where)
        elif self._kind[left] == _PRODUCT and self._kind[right] == _PRODUCT:
            self._match_products(left, right, where)
        elif self._kind[left] == _SUM:
            self._distribute(left, right, where)
        else:
            self._distribute(right, left, where)

    def _match_products(self, left: int, right: int, where: str) -> None:
        a, b = self.factors(left), self.factors(right)
        self._match_from(a, b, where, last=False)
        self._match_from(a, b, where, last=True)
        if a or b:
            self._give_up([*a, *b], where)
        else:
            self._merge(left, right)

    def _match_from(self, a: list[int], b: list[int], where: str, last: bool) -> None:
        """Match factors from one end while they nest; matched factors leave the lists."""
        end = -1 if last else 0
        while a and b:
            if len(a) == 1 and len(b) == 1:
                self.unify(a.pop(), b.pop(), where)
                return
            f, g = self._find(a[end]), self._find(b[end])
            small, large, holder = (f, g, b) if self._size[f] <= self._size[g] else (g, f, a)
            if self._size[f] == self._size[g]:
                self.unify(f, g, where)
                a.pop(end)
                b.pop(end)
                continue
            if self._size[large] % self._size[small]:
                return
            rest = self._variable(self._size[large] // self._size[small])
            split = self._node(_PRODUCT, self._size[large], (rest, small) if last else (small, rest))
            self.unify(large, split, where)
            holder[end] = rest
            (a if holder is b else b).pop(end)

    def _match_sums(self, left: int, right: int, where: str) -> None:
        a, b = self.parts(left), self.parts(right)
        i = j = 0
        while i < len(a) and j < len(b):
            p, q = self._find(a[i]), self._find(b[j])
            if self._size[p] == self._size[q]:
                self.unify(p, q, where)
                i, j = i + 1, j + 1
                continue
            small, large, holder, at = (p, q, b, j) if self._size[p] < self._size[q] else (q, p, a, i)
            pieces = self._cut(large, self._size[small], where)
            if pieces is None:
                self._give_up([*a[i:], *b[j:]], where)
                return
            holder[at : at + 1] = pieces
        self._merge(left, right)

    def _cut(self, node: int, at: int, where: str) -> list[int] | None:
        """Split a term in two segments, the first of size `at`; None where its structure does not allow it."""
        node = self._find(node)
        if self._kind[node] == _SUM:
            return self.parts(node)
        if self._kind[node] == _VARIABLE:
            pieces = [self._variable(at), self._variable(self._size[node] - at)]
            self._bind(node, self._node(_SUM, self._size[node], tuple(pieces)))
            return pieces
        first, *rest = self.factors(node)
        inner = self._size[node] // self._size[first]
        if at % inner:
            return None
        cut = self._cut(first, at // inner, where)
        if cut is None:
            return None
        return [self._structure(_PRODUCT, [piece, *rest]) for piece in cut]

    def _distribute(self, total: int, factored: int, where: str) -> None:
        """A sum meets a product: split the product's first factor along the segments."""
        first, *rest = self.factors(factored)
        inner = self._size[factored] // self._size[first]
        runs: list[list[int]] = [[]]
        for part in self.parts(total):
            runs[-1].append(part)
            if sum(self._size[p] for p in runs[-1]) % inner == 0:
                runs.append([])
        if runs.pop() or len(runs) < 2:
            self._give_up([total, factored], where)
            return
        sums = [self._structure(_SUM, run) for run in runs]
        pieces = [self._variable(self._size[run] // inner) for run in sums]
        self.unify(first, self._node(_SUM, self._size[first], tuple(pieces)), where)
        for run, piece in zip(sums, pieces, strict=True):
            self.unify(run, self._structure(_PRODUCT, [piece, *rest]), where)
        self._merge(total, factored)

    def _merge(self, left: int, right: int) -> None:
        """Two structures were found equal part by part: let one stand for both."""
        left, right = self._find(left), self._find(right)
        if left != right:
            self._parent[left] = right
