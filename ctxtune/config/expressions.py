"""The small language of `constraints` and `conditions`: comparisons of config values, parsed, never executed as Python.

>>> expression = parse("loss.negative_margin < loss.positive_margin and loss.name in ['contextual', 'contrastive']")
>>> sorted(expression.paths)
['loss.name', 'loss.negative_margin', 'loss.positive_margin']
>>> expression({"loss.negative_margin": 0.5, "loss.positive_margin": 0.7, "loss.name": "contextual"}.__getitem__)
True
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ctxtune.text import shortened

MOST_CHARACTERS = 1000
MOST_PIECES = 200
"""Of one expression: paths, numbers, operators, list items. Bounds the depth, too."""
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.eq, ast.IsNot: operator.ne,  # plain data has no identity
}  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """A parsed expression; call it with a function from dotted path to value."""

    text: str
    paths: frozenset[str]
    _node: ast.expr

    def __call__(self, lookup: Callable[[str], object]) -> bool:
        """Whether the expression holds.

        Raises:
            KeyError: from ``lookup``, for a path that has no value.
            TypeError: values that cannot be compared, such as null with a number, or arithmetic with what is no number.
            ArithmeticError: a division by zero, a number beyond what floating point holds.
        """
        return bool(_evaluate(self._node, lookup))


@lru_cache(maxsize=256)
def parse(text: str) -> Expression:
    """Parse an expression of dotted paths, numbers, strings, lists, arithmetic, comparisons, and / or / not.

    Raises:
        ValueError: anything else, in words.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{shortened(text)!r} is no expression: {MOST_CHARACTERS} characters at most")
    if "#" in text and "#" not in "".join(re.findall(r"'[^']*'|\"[^\"]*\"", text)):
        raise ValueError(f"{text!r} is not an expression: what follows the # would be left out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's, about `is` with a number
            node = ast.parse(text.strip(), mode="eval").body
        pieces = sum(isinstance(piece, ast.expr) for piece in ast.walk(node))
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an expression: {error.msg}") from None
    except (
        ValueError,
        RecursionError,
        MemoryError,
        OverflowError,
    ):  # what Python says of text that it cannot parse at all
        raise ValueError(f"{shortened(text)!r} is not an expression") from None
    if pieces > MOST_PIECES:
        raise ValueError(f"{shortened(text)!r} has {pieces} pieces; {MOST_PIECES} at most")
    paths: set[str] = set()
    _check(node, text, paths)
    if not paths:
        raise ValueError(f"{text!r} names no setting, so that it always or never holds")
    return Expression(text, frozenset(paths), node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return None


_LITERALS = {"null": None, "true": True, "false": False}


def _check(node: ast.expr, text: str, paths: set[str]) -> None:
    path = _dotted(node)
    if path is not None:
        if path not in _LITERALS:
            paths.add(path)
        return
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            children: list[ast.expr] = []
        case ast.BinOp() if type(node.op) in _BINARY:
            children = [node.left, node.right]
            if any(isinstance(each, ast.List | ast.Tuple) or _is_text(each) for each in children):
                raise ValueError(f"{text!r} calculates with a text or a list; arithmetic is for numbers")
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            children = [node.operand]
        case ast.BoolOp():
            children = node.values
        case ast.Compare():
            children = [node.left, *node.comparators]
        case ast.List() | ast.Tuple():
            children = node.elts
        case _:
            raise ValueError(
                f"{text!r} holds {shortened(ast.unparse(node))!r}; allowed are paths, numbers, strings, lists, arithmetic, "
                "comparisons, and, or, not"
            )
    for child in children:
        _check(child, text, paths)


def _evaluate(node: ast.expr, lookup: Callable[[str], object]) -> object:
    path = _dotted(node)
    if path is not None:
        return _LITERALS[path] if path in _LITERALS else lookup(path)
    match node:
        case ast.Constant():
            return node.value
        case ast.BinOp():
            return _calculated(_BINARY[type(node.op)], _evaluate(node.left, lookup), _evaluate(node.right, lookup))
        case ast.UnaryOp(op=ast.Not()):
            return not _evaluate(node.operand, lookup)
        case ast.UnaryOp():
            return _calculated(operator.mul, -1, _evaluate(node.operand, lookup))
        case ast.BoolOp(op=ast.And()):
            return all(_evaluate(value, lookup) for value in node.values)
        case ast.BoolOp():
            return any(_evaluate(value, lookup) for value in node.values)
        case ast.Compare():
            left = _evaluate(node.left, lookup)
            for comparison, right_node in zip(node.ops, node.comparators, strict=True):
                right = _evaluate(right_node, lookup)
                if not _COMPARE[type(comparison)](left, right):
                    return False
                left = right
            return True
        case ast.List() | ast.Tuple():
            return [_evaluate(element, lookup) for element in node.elts]
    raise AssertionError(f"_check let {ast.dump(node)} pass")


def _calculated(operation: Callable[[object, object], object], left: object, right: object) -> object:
    """Of numbers alone: Python would multiply texts and lists, to any length."""
    for value in (left, right):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"no arithmetic with {value!r}")
    return operation(left, right)
