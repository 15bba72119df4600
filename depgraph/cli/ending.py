"""How a command ends: its exit code by the kind of failure, and one line on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import click

from depgraph.errors import (
    DocumentError,
    MismatchError,
    PinnedError,
    PlanError,
    RuleError,
    TraceError,
    UnknownNameError,
    UnsupportedError,
)
from depgraph.graph.tables import printable

P = ParamSpec("P")
T = TypeVar("T")

FOUND = 1
"""The answer is no: two plans differ, a plan does not fit, an engine refuses a size."""

CODES: dict[type[BaseException], int] = {
    DocumentError: 3,
    OSError: 3,
    UnknownNameError: 4,
    PlanError: 5,
    PinnedError: 5,
    MismatchError: 6,
    TraceError: 7,
    UnsupportedError: 7,
    RuleError: 7,
}
"""Exit code of each kind of error. Click's own are 1 (aborted) and 2 (wrong usage)."""

USER_CODE = 8
"""Exit code where the user's own module cannot be imported, or raises."""

FAULT = 9
"""Exit code of what should not happen: a fault of depgraph, or no memory left."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


TRACEBACK = "DEPGRAPH_TRACEBACK"
"""The variable of the environment that lets an unexpected error through, with its traceback."""

_SHOWN = 3
"""So many problems stand in the line; `depgraph check` tells all of them."""


class UserCodeError(Exception):
    """What the user's module, factory or forward has raised."""


def one_line(error: BaseException) -> str:
    """A message as one line: its first problems one after another.

    >>> one_line(ValueError("two problems:\\n  - this\\n  - that\\nFix them."))
    'two problems: this; that. Fix them.'
    >>> one_line(FileNotFoundError(2, "No such file or directory", "graph.json"))
    'graph.json: No such file or directory'
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return printable(f"{error.filename}: {error.strerror}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    problems = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    listed = "; ".join([*problems[:_SHOWN], *more])
    if not problems:
        return printable(" ".join(lines) or type(error).__name__)
    first = next(place for place, line in enumerate(lines) if line.startswith("- "))
    others = [line for line in lines[first:] if not line.startswith("- ")]
    return printable(" ".join([*lines[:first], f"{listed.rstrip('.')}.", *others]))


def place_of(error: BaseException) -> str:
    """Where an error was raised, such as `` at model.py:12``: in the user's code, if it is below ours; empty if unknown."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" at {Path(error.filename).name}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def fail(code: int, message: str) -> NoReturn:
    """End with a code and a line on stderr."""
    print(f"depgraph: {message}", file=sys.stderr)
    _write_or_forget()
    raise SystemExit(code)


def _write_or_forget() -> None:
    """Write what is left for stdout, or let it go nowhere: else Python tries it again when the process ends, and tells it."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def ending(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command end with the code of what it raises, and one line on stderr."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()  # what cannot be written is told now, and not when the process ends
            return result
        except UserCodeError as error:
            fail(USER_CODE, one_line(error))
        except BrokenPipeError:  # `depgraph show | head`: whoever reads has seen enough
            _write_or_forget()
            raise SystemExit(0) from None
        except tuple(CODES) as error:
            code = next(code for kind, code in CODES.items() if isinstance(error, kind))
            fail(code, one_line(error))
        except KeyboardInterrupt:
            fail(INTERRUPTED, "interrupted")
        except MemoryError:
            fail(FAULT, "there is not enough memory.")
        except click.ClickException:
            raise
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            said = f"unexpected {type(error).__name__}{place_of(error)}: {one_line(error)}"
            fail(FAULT, f"{said} Please report it, with the traceback that {TRACEBACK}=1 shows.")

    return run
