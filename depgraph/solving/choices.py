"""What numbers in tensors say of indices that the data choose, followed through the calls of a forward.

Where a router takes the best of its logits, the positions that it returns are names of experts: whoever takes something by
them takes it of the same space. Without an index the data cannot choose it, and the names of those behind it move up. So
names may be moved, copied and taken; whoever computes with them as numbers pins the space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from attrs import frozen

from depgraph.solving.statements import Accumulated, Call, Chosen, Equal, Fresh, Meaning, Moved, Pin, Plus, Taken, Term, Value

ChoiceStatement: TypeAlias = Chosen | Taken | Moved | Accumulated

CHOICES = (Chosen, Taken, Moved, Accumulated)


@frozen(eq=False)
class Content:
    """What the values of a tensor say.

    Attributes:
        term: of whose indices.
        meaning: how they say it.
    """

    term: Term
    meaning: Meaning = "number"


class Choices:
    """The contents of a forward's values, call by call. It does not leave assembly."""

    def __init__(self, given: Mapping[int, Content] = MappingProxyType({})) -> None:
        self.contents = dict(given)
        self._met: set[int] = set(given)

    def follow(self, call: Call, statements: Sequence[ChoiceStatement]) -> Iterator[Equal | Pin]:
        """The equations and pins that follow from how a call uses contents; then those of its results are known."""
        contents = self.contents
        if statements or (contents and any(value.id in contents for value in call.inputs)):
            for statement in statements:
                if isinstance(statement, Taken):
                    yield from self._taken(statement)
            yield from self._computed_with(call, statements)
            yield from self._results(call, statements)
        elif contents:
            for value in call.outputs:
                contents.pop(value.id, None)
        self._met.update([value.id for value in call.outputs])

    def left(self, value: Value, reason: str) -> Iterator[Pin]:
        """The names in a value leave forward, for whoever may read them."""
        content = self.contents.get(value.id)
        if content is not None and content.meaning == "number":
            yield Pin(content.term, f"numbers of its indices leave: {reason}")

    def _taken(self, statement: Taken) -> Iterator[Equal | Pin]:
        content, term = self.contents.get(statement.operand.id), statement.term
        if content is None or content.meaning != statement.meaning:
            yield Pin(term, statement.reason)
        else:
            yield from _aligned(content.term, term, statement.reason)

    def _computed_with(self, call: Call, statements: Sequence[ChoiceStatement]) -> Iterator[Pin]:
        """Pins of what is named by numbers with which the call does something that nothing states."""
        uses = Counter(value.id for value in call.inputs if value.id in self.contents)
        uses.subtract(item.operand.id for item in statements if isinstance(item, Taken) and item.meaning == "number")
        moves = [statement for statement in statements if isinstance(statement, Moved)]
        kept = {item.operand.id for item in moves if item.operand.boolean or not item.result.boolean}
        uses.subtract(kept)  # a truth value of a number says whether it is that of the first index
        for content in (self.contents[number] for number, count in uses.items() if count > 0):
            if content.meaning == "number":
                yield Pin(content.term, f"{call.op} computes with the numbers of its indices")

    def _results(self, call: Call, statements: Sequence[ChoiceStatement]) -> Iterator[Equal | Pin]:
        contents = self.contents
        results: dict[int, Content] = {}
        for result in call.outputs:
            sources = [item.operand for item in statements if isinstance(item, Moved) and item.result.id == result.id]
            moved = [contents.get(source.id) for source in sources]
            known = [content for content in moved if content is not None and not result.boolean]
            written = result.id in self._met and any(source.id != result.id for source in sources)
            if known and (len(known) < len(moved) or written or len({content.meaning for content in known}) > 1):
                for content in known:
                    if content.meaning == "number":
                        yield Pin(content.term, f"{call.op} puts numbers of its indices among others")
            elif known:
                results[result.id] = known[0]
                for other in known[1:]:
                    yield from _aligned(known[0].term, other.term, f"{call.op} joins numbers of indices")
        for item in statements:
            if isinstance(item, Accumulated):
                summed = contents.get(item.operand.id)
                if summed is None or summed.meaning != "count":
                    yield Pin(item.term, item.reason)
                else:
                    yield from _aligned(summed.term, item.term, item.reason)
                    results[item.result.id] = Content(summed.term, "end")
            elif isinstance(item, Chosen):
                if item.result.id in self._met:
                    yield Pin(item.term, f"{call.op} writes numbers of its indices into another tensor")
                else:
                    results[item.result.id] = Content(item.term, item.meaning)
        for result in call.outputs:
            contents.pop(result.id, None)
        contents.update(results)


def _aligned(named: Term, taken: Term, reason: str) -> Iterator[Equal | Pin]:
    """What is named is what is taken, or its beginning: what lies behind it is never named."""
    if taken.size == named.size:
        yield Equal(named, taken)
    elif taken.size > named.size:
        yield Equal(taken, Plus((named, Fresh(taken.size - named.size))))
    else:
        yield Pin(taken, reason)
        yield Pin(named, reason)
