"""The registry, and the call strings that name things in it.

`pgd(steps=40)` is the config value, the command-line argument, the test's id and the table's row; canonicalised, with
every argument written out in order, it is the identity. Arguments are literals, arithmetic on numbers (`8/255`) and
nested call strings (`targeted(pgd(steps=40))`).
"""

import ast
import difflib
import importlib
import inspect
import operator
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from robustbench_jax.types import UserError

PACKAGES = {
    "aggregation": "robustbench_jax.ops.aggregation",
    "attack": "robustbench_jax.attacks",
    "budget": "robustbench_jax.ops",
    "certifier": "robustbench_jax.certify",
    "loss": "robustbench_jax.ops.losses",
    "data_defence": "robustbench_jax.defences.data",
    "dataset": "robustbench_jax.data",
    "inspection": "robustbench_jax.defences.inspection",
    "model": "robustbench_jax.models",
    "model_defence": "robustbench_jax.defences",
    "monitor": "robustbench_jax.defences.monitoring",
    "pretrained": "robustbench_jax.models",
    "recipe": "robustbench_jax.recipes",
    "training": "robustbench_jax.defences.training",
    "threat": "robustbench_jax.threats",
}
TRUTH = {"true": True, "false": False}  # as TOML has them, beside True and False
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass(frozen=True)
class Entry:
    """One registered thing. `given` names the parameters that the program passes and no call string may set; `late`
    those that are left out of its identity where they have their default, because ids are older than they are.
    """

    kind: str
    name: str
    make: Callable
    paper: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        maker = self.make.__init__ if inspect.isclass(self.make) else self.make
        signature = inspect.signature(maker).parameters
        return {k: p for k, p in signature.items() if k not in (*self.given, "self")}

    @property
    def waits(self) -> bool:
        """Whether it cannot be made before the program passes something (to an architecture its images' shape)."""
        signature = inspect.signature(self.make.__init__ if inspect.isclass(self.make) else self.make).parameters
        return any(signature[k].default is inspect.Parameter.empty for k in self.given)


@dataclass(frozen=True)
class Call:
    """A parsed call string: a name, positional and named arguments; values are literals or calls."""

    name: str
    args: tuple = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


_entries: dict[str, dict[str, Entry]] = {}


def register(
    kind: str,
    name: str,
    *,
    paper: str | None = None,
    parts: dict[str, str] | None = None,
    given: Iterable[str] = (),
    late: Iterable[str] = (),
    **facts: Any,
) -> Callable:
    """Class or function decorator. parts: {parameter: kind} for parameters that are registered things themselves."""

    def decorate(make: Callable) -> Callable:
        known = _entries.setdefault(kind, {})
        if name in known and _origin(known[name].make) != _origin(make):
            raise ValueError(f"two things are registered as {kind} '{name}'")
        known[name] = Entry(kind, name, make, paper, parts or {}, tuple(given), tuple(late), facts)
        make.registered, make.facts = (kind, name), facts
        return make

    return decorate


def _origin(make: Callable) -> tuple[str, str]:
    """Where a thing was made; the same for one whose module is read again."""
    return make.__module__, make.__qualname__


def discover(kind: str) -> dict[str, Entry]:
    """Imports every module where things of this kind live; returns what they registered, by name."""
    if kind not in PACKAGES:
        raise UserError(f"no kind of component '{kind}'{nearest(kind, PACKAGES)}")
    package = importlib.import_module(PACKAGES[kind])
    for module in pkgutil.walk_packages(getattr(package, "__path__", ()), package.__name__ + "."):
        importlib.import_module(module.name)
    return dict(sorted(_entries.get(kind, {}).items()))


def entry(kind: str, name: str) -> Entry:
    """The registered thing of that name, or a UserError with the nearest one."""
    known = _entries.get(kind, {})
    if name not in known:
        known = discover(kind)
    if name not in known:
        raise UserError(f"no {kind} '{name}'{nearest(name, known)}")
    return known[name]


def build(kind: str, text: "str | Call", **given: Any) -> Any:
    """Makes the thing that a call string names. Raises UserError for unknown names, keys and values.

    A part that waits for what the program passes is handed over as a function of that.
    """
    call = parse(text)
    found = entry(kind, call.name)
    defaults = {
        k: _value(found, k, found.parameters[k].default)
        for k in found.parts
        if found.parameters[k].default is not inspect.Parameter.empty
    }
    arguments = {k: _each(v, _made) for k, v in (defaults | _bind(found, call)).items()}
    return found.make(**arguments, **given)


def canonical(kind: str, text: "str | Call") -> str:
    """The identity of a call string: every argument by name, in order, defaults written out."""
    call = parse(text)
    found = entry(kind, call.name)
    values = {k: p.default for k, p in found.parameters.items()} | _bind(found, call)
    values = {k: v for k, v in values.items() if k not in found.late or v != found.parameters[k].default}
    written = {k: _value(found, k, v) for k, v in values.items()}
    return _write(call.name, {k: _text(v, canonical, repr) for k, v in written.items()})


def short(kind: str, text: "str | Call") -> str:
    """The call string as tables show it: what differs from the defaults, eps as n/255 where it is that."""
    call = parse(text)
    found = entry(kind, call.name)
    shown = {}
    for k, v in _bind(found, call).items():
        default = found.parameters[k].default
        if default is inspect.Parameter.empty or _each(v, _whole) != _each(_value(found, k, default), _whole):
            shown[k] = _text(v, short, _number)
    if shown and list(shown) == list(found.parameters)[:1]:
        return f"{call.name}({next(iter(shown.values()))})"
    return _write(call.name, shown)


def parse(text: "str | Call") -> Call:
    """`pgd(steps=40)` -> Call. A bare name, with slashes for shipped models, is a call without arguments."""
    if isinstance(text, Call):
        return text
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{text!r} is no call string; write a name such as pgd or a call such as pgd(steps=40)")
    if re.fullmatch(r"[A-Za-z_][\w.+-]*(/[\w.+-]+)*", text.strip()):
        return Call(text.strip())
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"'{text}' is no call string ({error.args[0]}); write e.g. pgd(steps=40)") from None
    return _call(node, text)


def nearest(word: str, known: Iterable[str]) -> str:
    """The tail of an error message: `; did you mean 'pgd'?`, or the list of what there is."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 5, 0.5)
    close.sort(key=lambda name: sorted(name) != sorted(word))  # two letters in the wrong order are the likeliest slip
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(known) or 'none'}"


@dataclass(frozen=True)
class _Part:
    """An argument that is itself a registered thing."""

    kind: str
    call: Call


def _made(part: _Part) -> Any:
    waits = entry(part.kind, part.call.name).waits
    return partial(build, part.kind, part.call) if waits else build(part.kind, part.call)


def _each(value: Any, change: Callable) -> Any:
    """Changes the parts of an argument, alone or in a tuple; leaves literals as they are."""
    if isinstance(value, tuple):
        return tuple(_each(v, change) for v in value)
    return change(value) if isinstance(value, _Part) else value


def _whole(part: _Part) -> str:
    """A part with every argument written out: what it is compared by."""
    return canonical(part.kind, part.call)


def _text(value: Any, part: Callable, literal: Callable) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_text(v, part, literal) for v in value)}]"
    return part(value.kind, value.call) if isinstance(value, _Part) else literal(value)


def _call(node: ast.AST, text: str) -> Call:
    if isinstance(node, ast.Name):
        return Call(node.id)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or any(
        k.arg is None for k in node.keywords
    ):
        raise UserError(f"'{text}' is no call string; write a name such as pgd or a call such as pgd(steps=40)")
    args = tuple(_literal(a, text) for a in node.args)
    return Call(node.func.id, args, tuple((k.arg, _literal(k.value, text)) for k in node.keywords))


def _literal(node: ast.AST, text: str) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _literal(node.left, text), _literal(node.right, text)
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise UserError(f"'{ast.unparse(node)}' in '{text}': arithmetic is for numbers")
        try:
            return OPERATORS[type(node.op)](left, right)
        except ArithmeticError as error:
            raise UserError(f"'{ast.unparse(node)}' in '{text}': {error}") from None
    if isinstance(node, ast.Name) and node.id in TRUTH:
        return TRUTH[node.id]
    if isinstance(node, ast.Call | ast.Name):
        return _call(node, text)
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_literal(item, text) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise UserError(f"'{ast.unparse(node)}' in '{text}' is no literal (number, string, true or false)") from None


def _bind(found: Entry, call: Call) -> dict[str, Any]:
    """The call's arguments by parameter name, in the signature's order, typed as the signature says."""
    parameters = list(found.parameters)
    if len(call.args) > len(parameters):
        takes = f"at most {len(parameters)} arguments: {', '.join(parameters)}" if parameters else "no arguments"
        raise UserError(f"{found.kind} '{found.name}' takes {takes}; got {len(call.args)}")
    given = dict(zip(parameters, call.args, strict=False))
    for key, value in call.kwargs:
        if key not in parameters:
            raise UserError(f"{found.kind} '{found.name}' has no argument '{key}'{nearest(key, parameters)}")
        if key in given:
            raise UserError(f"{found.kind} '{found.name}': '{key}' is given twice")
        given[key] = value
    for key, p in found.parameters.items():
        if key not in given and p.default is inspect.Parameter.empty:
            raise UserError(f"{found.kind} '{found.name}' needs '{key}'; write e.g. {found.name}({key}=...)")
    return {k: _value(found, k, given[k]) for k in parameters if k in given}


def _value(found: Entry, key: str, value: Any) -> Any:
    """Checks one argument against its annotation: a float takes an int, an int takes no float."""
    wrong, parameter = f"{found.kind} '{found.name}': {key} = {value!r}", found.parameters[key]
    options = typing.get_args(parameter.annotation) or (parameter.annotation,)
    if key in found.parts:
        if isinstance(value, _Part) or (value is None and (parameter.default is None or type(None) in options)):
            return value
        if isinstance(value, tuple):
            return tuple(_value(found, key, v) for v in value)
        if not isinstance(value, str | Call):
            raise UserError(f"{wrong} must name {_a(found.parts[key])}")
        part = _Part(found.parts[key], parse(value))
        _bind(entry(part.kind, part.call.name), part.call)
        return part
    if isinstance(value, Call) and value.name in ("nan", "inf"):
        raise UserError(f"{wrong.replace(repr(value), value.name)} must be a finite number")
    if isinstance(value, Call):
        raise UserError(f"{wrong.replace(repr(value), value.name)} must be a literal; write text in quotes")
    if value is None and type(None) in options:
        return None
    wanted = options[0]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is float and number:
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{wrong} must be a float; it is too large for one") from None
    for kind, fits in (
        (float, number),
        (int, isinstance(value, int) and not isinstance(value, bool)),
        (bool, isinstance(value, bool)),
        (str, isinstance(value, str)),
        (tuple, isinstance(value, tuple)),
    ):
        if wanted is kind and not fits:
            raise UserError(f"{wrong} must be {_a(kind.__name__)}")
    return value


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _write(name: str, arguments: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})" if arguments else name


def _number(value: Any) -> str:
    if isinstance(value, float) and len(repr(value)) > 6 and abs(value * 255 - round(value * 255)) < 1e-9:
        return f"{round(value * 255)}/255"
    return repr(value)
