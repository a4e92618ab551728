"""The expressions of composition and their parser.

    circle & red & ~large        and, not: any other class of the group
    (circle | square) & 2*red    or; a weight is the exponent of a density, or its weight in an |
    4*circle,red                 one class of each of several groups as one condition of the model, whereas & multiplies
                                 the densities of single classes; with a weight, this is guidance
    runs/001-faces:smiling       a class of a model; 'path with spaces':smiling
    runs/002-cats:               the whole density of a model

~ binds tightest, then a weight, then &, then |. In single quotes every character is part of a name, and two single
quotes stand for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from vpfb_core.errors import ConfigError

LONGEST = 1000  # characters
DEEPEST = 50  # parentheses and ~ inside one another
LARGEST_WEIGHT = 100.0

_EXCERPT = 30  # characters shown on either side of a mistake


class ExpressionError(ConfigError):
    """A mistake in an expression, with its position.

    `message` is one line with a ^ before the position. As a string, the error shows the ^ below the position.

    Args:
        reason: what is wrong.
        text: the expression.
        position: the index of the wrong character.
        hint: what to do about it.
    """

    def __init__(self, reason: str, text: str, position: int, *, hint: str | None = None) -> None:
        before, after = text[:position], text[position:]
        before = before if len(before) <= _EXCERPT else f"...{before[-_EXCERPT:]}"
        after = after if len(after) <= _EXCERPT else f"{after[:_EXCERPT]}..."
        super().__init__(f"{reason}, at ^ in: {before}^{after}", hint=hint)
        self.text, self.position = text, position
        shown = "".join(each if each.isprintable() else " " for each in before + after)
        self._pointing = f"{reason}\n  {shown}\n  {' ' * len(before)}^"

    def __str__(self) -> str:
        return self._pointing


@dataclass(frozen=True)
class Position:
    """The position of a name in a text."""

    text: str
    index: int

    def error(self, reason: str, hint: str | None = None) -> ConfigError:
        """The error with this position; an error without a position if the name was not parsed from a text."""
        if not self.text:
            return ConfigError(reason, hint=hint)
        return ExpressionError(reason, self.text, self.index, hint=hint)


@dataclass(frozen=True)
class Name:
    """A class, group=class, or classes of several groups, separated by commas.

    Attributes:
        name: the name; "" for the whole density of the model.
        model: the name of the model; None for the default model.
        position: the position in the text, which equality ignores.
    """

    name: str
    model: str | None = None
    position: Position = field(default=Position("", 0), compare=False, repr=False)

    def __str__(self) -> str:
        name = _quoted(self.name) if self.name else ""
        return name if self.model is None else f"{_quoted(self.model)}:{name}"


@dataclass(frozen=True)
class Not:
    """~part."""

    part: Expression

    def __str__(self) -> str:
        return f"~{_inside(self.part, Not)}"


@dataclass(frozen=True)
class Weighted:
    """weight*part with a positive weight."""

    weight: float
    part: Expression

    def __str__(self) -> str:
        return f"{repr(self.weight).removesuffix('.0')}*{_inside(self.part, Not)}"


@dataclass(frozen=True)
class And:
    """part & part & …, with at least two parts."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " & ".join(_inside(part, Weighted) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """part | part | …, with at least two parts."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " | ".join(_inside(part, And) for part in self.parts)


Expression = Name | Not | Weighted | And | Or

_BINDING: list[type] = [Or, And, Weighted, Not, Name]  # from the loosest to the tightest


def _inside(part: Expression, loosest: type) -> str:
    """A part as text, in parentheses if it binds less tightly than `loosest`."""
    return f"({part})" if _BINDING.index(type(part)) < _BINDING.index(loosest) else str(part)


def names_of(expression: Expression) -> Iterator[Name]:
    """The names of an expression from left to right, with repetitions."""
    if isinstance(expression, Name):
        yield expression
    else:
        for part in parts_of(expression):
            yield from names_of(part)


def parts_of(expression: Expression) -> tuple[Expression, ...]:
    """The direct parts of an expression; () for a name."""
    if isinstance(expression, Name):
        return ()
    return expression.parts if isinstance(expression, And | Or) else (expression.part,)


# --- reading ----------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\s&|~*():',]+(,[^\s&|~*():',]+)*")
_TOKEN = re.compile(rf"(?P<symbol>[&|~*():])|(?P<quoted>'(?:[^']|'')*')|(?P<word>{_WORD.pattern})")
_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)

_JOIN = "join names with & (and) or | (or); put a name with spaces in single quotes"


@dataclass(frozen=True)
class _Token:
    kind: str  # "symbol", "quoted", "word" or "end"
    text: str  # without the quotes
    position: int

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def parse(text: str) -> Expression:
    """Parse an expression. `str` of the result parses to the same result.

    Raises:
        ExpressionError: the text is not an expression; the error shows where.
    """
    if len(text) > LONGEST:
        raise ExpressionError(f"an expression of {len(text):,} characters", text, LONGEST, hint=f"at most {LONGEST:,}")
    reader = _Reader(text)
    expression = reader.either()
    reader.finish()
    return expression


class _Reader:
    """A recursive-descent parser with one method per rule. It looks ahead one token, and two for a weight."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*_tokens(text), _Token("end", "", len(text))]
        self._next = 0
        self._depth = 0

    def either(self) -> Expression:
        """both | both | …"""
        parts = [self.both()]
        while self._take("|"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self) -> Expression:
        """weighted & weighted & …"""
        parts = [self.weighted()]
        while self._take("&"):
            parts.append(self.weighted())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def weighted(self) -> Expression:
        """[number *] negated"""
        token = self._peek()
        if token.kind == "end" or not self._is_symbol("*", self._peek(1)):
            return self.negated()
        self._next += 2
        if token.kind != "word" or not _NUMBER.fullmatch(token.text):
            hint = "a number goes in front of *, and - is written ~"
            raise self._error(f"{token.shown} is not a weight", token, hint=hint)
        weight = float(token.text)
        if not 0 < weight <= LARGEST_WEIGHT:
            hint = f"a weight is above 0 and at most {LARGEST_WEIGHT:g}"
            raise self._error(f"the weight {token.text} is out of range", token, hint=hint)
        return Weighted(weight, self.negated())

    def negated(self) -> Expression:
        """~negated, or a name, or (either)"""
        self._depth += 1
        token = self._peek()
        if self._depth > DEEPEST:
            raise self._error(f"more than {DEEPEST} parentheses and ~ inside one another", token)
        if self._take("~"):
            if self._is_symbol("*", self._peek(1)):
                raise self._error("a weight after ~", self._peek(), hint="the weight goes first: 1.5*~red")
            expression: Expression = Not(self.negated())
        elif self._take("("):
            expression = self.either()
            if not self._take(")"):
                raise self._unexpected("')'", hint=f"the '(' at character {token.position + 1} is not closed; {_JOIN}")
        else:
            expression = self.name()
        self._depth -= 1
        return expression

    def name(self) -> Name:
        """name, model:name or model:"""
        position = self._peek().position
        first = self._word()
        if not self._take(":"):
            return Name(first, None, Position(self._text, position))
        if self._peek().kind not in ("word", "quoted"):
            return Name("", first, Position(self._text, position))
        position = self._peek().position
        return Name(self._word(), first, Position(self._text, position))

    def finish(self) -> None:
        """Raise ExpressionError if there are tokens left."""
        if self._peek().kind != "end":
            raise self._unexpected("& or |", hint=_JOIN)

    def _word(self) -> str:
        token = self._peek()
        if token.kind not in ("word", "quoted"):
            raise self._unexpected("a name", hint="a name, ~ or ( goes there")
        if not token.text:
            raise self._error("an empty name", token)
        self._next += 1
        return token.text

    def _take(self, symbol: str) -> bool:
        found = self._is_symbol(symbol, self._peek())
        self._next += found
        return found

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)]

    @staticmethod
    def _is_symbol(symbol: str, token: _Token) -> bool:
        return token.kind == "symbol" and token.text == symbol

    def _unexpected(self, expected: str, hint: str) -> ExpressionError:
        return self._error(f"expected {expected}, not {self._peek().shown}", self._peek(), hint=hint)

    def _error(self, reason: str, token: _Token, hint: str | None = None) -> ExpressionError:
        return ExpressionError(reason, self._text, token.position, hint=hint)


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        found = _TOKEN.match(text, position)
        if found is None:
            if text[position] == "'":
                raise ExpressionError("a quote that is not closed", text, position, hint="two quotes stand for one")
            raise ExpressionError(f"{text[position]!r} has no meaning here", text, position, hint=_JOIN)
        kind, word = str(found.lastgroup), found.group()
        yield _Token(kind, word[1:-1].replace("''", "'") if kind == "quoted" else word, position)
        position = found.end()


def _quoted(name: str) -> str:
    """A name as `parse` reads it, in quotes if necessary."""
    return name if _WORD.fullmatch(name) else "'" + name.replace("'", "''") + "'"
