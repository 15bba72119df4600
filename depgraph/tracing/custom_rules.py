"""Rule tables as users write them: operators by name, and module and function classes that are taken as one operator.

The forward of such a class runs as ever, but what happens inside is not recorded: the whole run is one `Call` with the
class's qualified name, about whose axes the rule speaks.
"""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import nn

from depgraph.errors import RuleError
from depgraph.graph.records import OpType
from depgraph.rules import RULES
from depgraph.solving.sized import plain_int
from depgraph.solving.statements import Rule
from depgraph.tracing.layer_attributes import read_in_forward
from depgraph.tracing.session import Running, Session, class_name, named_leaves, shape_of

RuleKey = str | type
"""``"namespace::operator"`` or ``"namespace.operator"``, a module class, or a `torch.autograd.Function` class."""


@frozen
class RuleTable:
    """A checked table.

    Attributes:
        by_name: operators and qualified class names with their rules.
        modules: module classes that are taken as one operator, with their qualified names.
        functions: the same for autograd functions.
    """

    by_name: Mapping[str, Rule]
    modules: Mapping[type, str]
    functions: Mapping[type, str]


def rule_table(rules: Mapping[Any, Rule]) -> RuleTable:
    """Check a table and sort its keys.

    Raises:
        RuleError: a key names no operator and is no class of either kind, or a value is no `Rule`; all such entries
            are listed.
    """
    if rules is RULES:
        return RuleTable(RULES, {}, {})
    table: object = rules
    if not isinstance(table, Mapping):
        raise RuleError(f"expected rules= to be a mapping such as RULES | {{...}}, met a {type(table).__name__}.")
    by_name: dict[str, Rule] = {}
    modules: dict[type, str] = {}
    functions: dict[type, str] = {}
    problems: list[str] = []
    for key, rule in rules.items():
        if isinstance(key, str) and RULES.get(key) is rule:
            by_name[key] = rule
            continue
        name, problem = _name_of(key)
        problem = problem or _rule_problem(rule)
        if problem:
            problems.append(f"{key!r}: {problem}")
        elif isinstance(key, type) and name in by_name:
            problems.append(f"{key!r}: another class in the table has the same qualified name; give one of them another name")
        else:
            by_name[name] = rule
        if isinstance(key, type) and not problem:
            (modules if issubclass(key, nn.Module) else functions)[key] = name
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise RuleError(f"the rule table has entries that cannot be used:{listed}")
    return RuleTable(types.MappingProxyType(by_name), modules, functions)


def _name_of(key: Any) -> tuple[str, str]:
    """The name of a key in the table, and what is wrong with the key."""
    if isinstance(key, type):
        if issubclass(key, (nn.Module, torch.autograd.Function)):
            return f"{key.__module__}.{key.__qualname__}", ""
        return "", "expected a subclass of nn.Module or of torch.autograd.Function"
    if not isinstance(key, str):
        return "", (
            f"expected 'namespace::operator', a module class or an autograd function class as key, met a {type(key).__name__}"
        )
    name = key.replace("::", ".")
    namespace, _, operator = name.partition(".")
    if not namespace or not operator or "." in operator:
        return "", "expected 'namespace::operator', without an overload's name"
    if operator.endswith("_") and not operator.endswith("__"):
        return "", f"in-place forms share the rule of the plain one; write {key[:-1]!r}"
    if not _is_registered(namespace, operator):
        return "", "no such operator is registered; import the library that defines it before tracing, or correct the name"
    return name, ""


def _is_registered(namespace: str, operator: str) -> bool:
    """Whether torch has an operator of this name, plain or in place."""
    if namespace == "higher_order":
        return hasattr(torch.ops.higher_order, operator)
    return any(torch._C._jit_get_schemas_for_operator(f"{namespace}::{operator}{end}") for end in ("", "_"))


def _rule_problem(rule: object) -> str:
    """What is wrong with a value of the table; empty for a rule."""
    if not isinstance(rule, Rule):
        return f"expected a Rule as value, met a {type(rule).__name__}; write Rule(function_of_a_call)"
    equations: object = rule.equations
    if not callable(equations):
        return f"expected a function of a call in its Rule, met a {type(equations).__name__}"
    if rule.type not in OpType.__members__:
        return f"expected the name of an OpType as its type, met {rule.type!r}"
    return ""


def as_one_module(module: nn.Module, path: str, op: str, session: Session) -> None:
    """Let the forward of a module's copy be recorded as one call of its parameters, sizes and arguments."""
    inner = module.forward
    signature = inspect.signature(inner)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if session.muted:
            return inner(*args, **kwargs)
        arguments = _arguments(signature, args, kwargs)
        for name, content in _tensors_and_integers(module):
            arguments[name if name not in arguments else f"self.{name}"] = content
        label = Running(path, class_name(module), True)
        return _as_one_call(session, op, arguments, label, lambda: inner(*args, **kwargs))

    module.__dict__["forward"] = forward


def as_one_function(function: type, op: str, session: Session) -> Callable[[], None]:
    """Let the forward of an autograd function be recorded as one call. Returns what undoes it."""
    original = inspect.getattr_static(function, "forward")
    own = "forward" in vars(function)
    inner: Callable[..., Any] = function.forward  # type: ignore[attr-defined]
    with_context = function.setup_context is torch.autograd.Function.setup_context  # type: ignore[attr-defined]
    signature = inspect.signature(inner)

    thread = threading.get_ident()

    def forward(*args: Any) -> Any:
        if session.muted or threading.get_ident() != thread:  # the class is changed for all threads
            return inner(*args)
        arguments = _arguments(signature, args, {})
        if with_context:
            del arguments[next(iter(signature.parameters))]
        return _as_one_call(session, op, arguments, session.running, lambda: inner(*args))

    def undo() -> None:
        if own:
            type.__setattr__(function, "forward", original)
        else:
            type.__delattr__(function, "forward")

    type.__setattr__(function, "forward", staticmethod(forward))
    return undo


def _arguments(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by name; those that a ``**`` parameter gathers by their own names."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    by_name = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            by_name.update(by_name.pop(name, {}))
    for name, content in list(by_name.items()):
        if not isinstance(content, (torch.Tensor, list, tuple, dict)):
            by_name.update(named_leaves(name, content) if not _plain(content) else ())
    return by_name


def _plain(content: Any) -> bool:
    """Whether an argument has no tensor in it."""
    return isinstance(content, (int, float, str, bool, type(None)))


def _tensors_and_integers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters, buffers and integer attributes of a module and its submodules, by dotted name.

    An integer that a layer of torch does not take as a size in its forward, such as `in_features`, stays a plain number: the
    shape of the weight decides.
    """
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for path, part in module.named_modules(remove_duplicate=False):
        names = read_in_forward(part)
        for name, content in vars(part).items():
            if isinstance(content, int) and not isinstance(content, bool) and not name.startswith("_"):
                is_size = names is None or name in names
                yield f"{path}.{name}" if path else name, content if is_size else plain_int(content)


def _as_one_call(session: Session, op: str, arguments: dict[str, Any], label: Running, run: Callable[[], Any]) -> Any:
    """Run something and record it as one call; what it calls itself is not recorded."""
    args = {name: session.data(content) for name, content in arguments.items()}
    with session.whole():
        result = run()
    tensors = [tensor for _, tensor in named_leaves("output", result)]
    outputs = tuple(session.value(tensor, shape_of(tensor)) for tensor in tensors)
    session.called(op, args, outputs, label, whole=True)
    return result
