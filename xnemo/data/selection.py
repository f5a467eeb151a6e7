"""Filter expressions over the columns of the index.

An expression uses Python syntax, parsed with `ast` and evaluated without `eval`. It may contain
column names, numbers, strings, lists, `and or not`, comparisons (also chained), `in`, `not in`,
`+ - * /`, `abs(x)` or `|x|`, and `missing(x)`.
"""

import ast
import difflib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from preprocessing.errors import UserError

_BARS = re.compile(r"""('[^']*'|"[^"]*")|\|([^|'"]+)\|""")

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def select(index: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Return the rows of `index` for which `expression` is true, in order.

    An empty expression selects every row. Comparisons with missing values are false;
    ``missing(yaw)`` tests for them.

    Raises:
        UserError: the expression does not parse, names an unknown column, or mixes types.
    """
    if not expression.strip():
        return index
    # YAML files may fold a long expression over several lines.
    expression = " ".join(expression.strip().splitlines())
    source = _BARS.sub(lambda m: m.group(1) or f"abs({m.group(2)})", expression)
    try:
        tree = ast.parse(source, mode="eval")
        mask = _Evaluator(index, expression).value(tree.body)
    except (SyntaxError, ValueError) as error:
        at = f" at column {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(
            f"filter {expression!r} does not parse{at}: {reason}",
            "write it like: face_px >= 256 and |yaw| <= 60 and identity not in ['a', 'b']",
        ) from None
    except (RecursionError, MemoryError):
        raise UserError(
            f"filter {expression[:60]!r}... is nested too deeply", "use fewer brackets"
        ) from None
    if isinstance(mask, bool | np.bool_):
        mask = pd.Series(bool(mask), index=index.index)
    if not isinstance(mask, pd.Series) or not pd.api.types.is_bool_dtype(mask.dtype):
        raise UserError(
            f"filter {expression!r} is not a condition",
            "end it with a comparison, such as > 0",
        )
    return index[mask]


class _Evaluator:
    """Evaluation of an expression over a table."""

    def __init__(self, index: pd.DataFrame, expression: str) -> None:
        self.index = index
        self.expression = expression

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return [ast.literal_eval(item) for item in items if self._literal(item)]
            case ast.BoolOp(op=op, values=values):
                parts = [self._boolean(v) for v in values]
                joined = parts[0]
                for part in parts[1:]:
                    joined = joined & part if isinstance(op, ast.And) else joined | part
                return joined
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._boolean(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._calculate(left, op, right)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._compare(left, ops, comparators)
            case ast.Call(func=ast.Name(id="abs"), args=[argument], keywords=[]):
                return abs(self._number(argument))
            case ast.Call(func=ast.Name(id="missing"), args=[ast.Name(id=name)], keywords=[]):
                return self._column(name).isna()
        raise self._refuse(node)

    def _column(self, name: str) -> pd.Series:
        if name in self.index.columns:
            return self.index[name]
        near = difflib.get_close_matches(name, list(self.index.columns), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "columns are"
        raise UserError(
            f"filter {self.expression!r} names an unknown column {name!r}",
            f"{hint} ({', '.join(map(str, self.index.columns))})",
        )

    def _boolean(self, node: ast.expr) -> pd.Series:
        result = self.value(node)
        if isinstance(result, bool):
            return pd.Series(result, index=self.index.index)
        if isinstance(result, pd.Series) and pd.api.types.is_bool_dtype(result.dtype):
            return result
        raise UserError(
            f"filter {self.expression!r} uses {ast.unparse(node)!r} as a condition",
            "write a comparison there, such as > 0 or == 'kept'",
        )

    def _number(self, node: ast.expr) -> Any:
        result = self.value(node)
        dtype = result.dtype if isinstance(result, pd.Series) else np.asarray(result).dtype
        if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype):
            return result
        raise UserError(
            f"filter {self.expression!r} calculates with {ast.unparse(node)!r}, not a number",
            "use a numeric column there",
        )

    def _calculate(self, left: ast.expr, op: ast.operator, right: ast.expr) -> Any:
        try:
            return _ARITHMETIC[type(op)](self._number(left), self._number(right))
        except ZeroDivisionError:
            raise UserError(
                f"filter {self.expression!r} divides by zero", "divide by another number"
            ) from None

    def _compare(self, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr]) -> pd.Series:
        result: pd.Series | None = None
        for op, right in zip(ops, rights, strict=True):
            a, b = self.value(left), self.value(right)
            part = self._compare_one(a, op, b, left, right)
            result = part if result is None else result & part
            left = right
        assert result is not None
        return result

    def _compare_one(
        self, a: Any, op: ast.cmpop, b: Any, left: ast.expr, right: ast.expr
    ) -> pd.Series:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(a, pd.Series) or not isinstance(b, list):
                raise self._refuse(right)
            inside = a.isin(b)
            return inside if isinstance(op, ast.In) else ~inside & a.notna()
        if type(op) not in _COMPARE or isinstance(a, list) or isinstance(b, list):
            raise self._refuse(right)
        if _is_text(a) != _is_text(b):
            raise UserError(
                f"filter {self.expression!r} compares {ast.unparse(left)!r} with "
                f"{ast.unparse(right)!r}: one is text and the other a number",
                "put quotes around text and none around numbers",
            )
        known = _known(a) & _known(b)
        compared = _COMPARE[type(op)](a, b) & known
        if isinstance(compared, pd.Series):
            return compared.fillna(False).astype(bool)
        return pd.Series(bool(compared), index=self.index.index)

    def _literal(self, node: ast.expr) -> bool:
        try:
            ast.literal_eval(node)
        except ValueError:
            raise self._refuse(node) from None
        return True

    def _refuse(self, node: ast.expr) -> UserError:
        return UserError(
            f"filter {self.expression!r} contains {ast.unparse(node)!r}, which is not allowed",
            "use column names, numbers, quoted text, and/or/not, comparisons, in [..], + - * /, "
            "abs(), missing()",
        )


def _is_text(value: object) -> bool:
    if isinstance(value, pd.Series):
        return not (
            pd.api.types.is_numeric_dtype(value.dtype) or pd.api.types.is_bool_dtype(value.dtype)
        )
    return isinstance(value, str)


def _known(value: object) -> Any:
    return value.notna() if isinstance(value, pd.Series) else True
