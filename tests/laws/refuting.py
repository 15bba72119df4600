"""Negative controls: a law that a wrong implementation passes says nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb

import depgraph

PACKAGE = Path(depgraph.__file__).parent


def refuted(
    law: Callable, *wrong, says: str = "", by: type[Exception] | tuple[type[Exception], ...] = AssertionError, **more
) -> str:
    """Run the check of a law on something wrong, and return what it says of it.

    Args:
        law: the function that states the law, the same that holds for what is right.
        wrong: its arguments, a wrong implementation or what one made among them.
        says: a pattern that the message must contain.
        by: the error in which the refutation shows; a law on models may also show as a forward that fails.
        more: named arguments of the law.

    Raises:
        AssertionError: the law holds, or it failed for another reason than expected: with another message, or because an
            assertion of the package itself did not hold.
    """
    try:
        law(*wrong, **more)
    except by as error:
        said = str(error)
        (*_, last) = (Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__))
        accident = (
            isinstance(error, AssertionError) and last.is_relative_to(PACKAGE) and PACKAGE / "testing" not in last.parents
        )
        if accident or not re.search(says, said):
            raise AssertionError(f"{law.__name__} was to be refuted by {says!r}, but failed in {last.name}: {said}") from error
        return said
    raise AssertionError(f"{law.__name__} holds for a wrong implementation")
