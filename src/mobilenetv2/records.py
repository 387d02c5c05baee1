"""Records that come from outside: frozen dataclasses that check their fields and travel as JSON.

A field's annotation says what it may hold: `Annotated[int, Meta(ge=1, le=64)]`, `Literal["a", "b"]`,
`tuple[float, ...]`, `str | None`, another record, a union of records. msgspec checks it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

import msgspec
from msgspec import Meta

from .errors import UserError

__all__ = ["Meta", "Record", "Side", "Size"]
Self = TypeVar("Self", bound="Record")
Side = Annotated[int, Meta(ge=1, le=1 << 16)]
Size = Annotated[tuple[Side, Side], Meta(description="(height, width), each from 1 to 65536")]

FIELDS = "__dataclass_fields__"

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "None",
}


class Record:
    """Base of the frozen dataclasses that a user or a file fills in.

    A subclass is decorated with `@dataclass(frozen=True)`. At construction every field is brought
    to plain types (NumPy's numbers to int and float, lists to tuples, paths to text, the
    dictionary of a nested record to that record) and checked against its annotation. What an
    annotation cannot say goes into a `__post_init__` that calls this one first.

    Attributes:
        noun: What messages call the record.
        error: What is raised when a field cannot have its value.
        kind: Tells the records of a union apart, as the entry "kind" of their JSON. Empty where
            there is only one.

    Raises:
        UserError: As `error`. The message names the field, what is allowed, and the value.
    """

    noun: ClassVar[str] = "record"
    error: ClassVar[type[UserError]] = UserError
    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, annotation in self._annotations().items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, _checked(annotation, value))
            except msgspec.ValidationError:
                raise self.refusal(name, _allowed(annotation)) from None

    def refusal(self, name: str, allowed: str) -> UserError:
        """The error to raise where the field `name` has another value than is allowed."""
        value = getattr(self, name)
        return self.error(f"{self.noun} {name} must be {allowed}, not {value!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary fit for JSON, nested records included."""
        values = {name: _plain(getattr(self, name)) for name in self._annotations()}
        return {"kind": self.kind, **values} if self.kind else values

    @classmethod
    def from_dict(cls: type[Self], values: Any) -> Self:
        """Reads what `to_dict` gave. Fields that are absent take their defaults.

        Raises:
            UserError: As `error`. Not a dictionary, an unknown or a missing field, or a value
                that a field cannot have.
        """
        if not isinstance(values, Mapping):
            raise cls.error(f"the {cls.noun} must be a JSON object, not {type(values).__name__}")
        values = dict(values)
        if cls.kind and values.pop("kind", cls.kind) != cls.kind:
            raise cls.error(f"the {cls.noun} must be of the kind {cls.kind!r}")
        if unknown := sorted(values.keys() - cls._annotations().keys()):
            raise cls.error(f"the {cls.noun} has unknown fields: {', '.join(unknown)}")
        if missing := [name for name in cls._required() if name not in values]:
            raise cls.error(f"the {cls.noun} lacks fields: {', '.join(missing)}")
        return cls(**values)

    def to_json(self) -> str:
        """As JSON text; `from_json` gives an equal record back."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Reads what `to_json` wrote. Fields that are absent take their defaults.

        Raises:
            UserError: As `error`. Not JSON, an unknown or a missing field, or a value that a
                field cannot have.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise cls.error(f"the {cls.noun} is not JSON: {error}") from None
        return cls.from_dict(values)

    @classmethod
    def _annotations(cls) -> dict[str, Any]:
        """The annotation of each field, evaluated."""
        return _evaluated_annotations(cast(Hashable, cls))

    @classmethod
    def _required(cls) -> list[str]:
        """The fields without a default."""
        every: Any = cls
        return [
            field.name
            for field in fields(every)
            if field.default is MISSING and field.default_factory is MISSING
        ]


@cache
def _evaluated_annotations(cls: Any) -> dict[str, Any]:
    return {field.name: _without_paths(_evaluated(cls, field)) for field in fields(cls)}


def _evaluated(cls: Any, field: Field[Any]) -> Any:
    """The annotation of a field. `typing.get_type_hints` would evaluate those of the class variables
    too, of every base.
    """
    if not isinstance(field.type, str):
        return field.type
    shared = [base for base in cls.__mro__ if getattr(base, FIELDS, {}).get(field.name) is field]
    return eval(field.type, vars(sys.modules[shared[-1].__module__]))


def _without_paths(annotation: Any) -> Any:
    """The annotation without `os.PathLike`: paths are text by the time they are checked."""
    members = _members(annotation)
    kept = [x for x in members if os.PathLike not in (x, get_origin(x))]
    return annotation if len(kept) == len(members) else Union[tuple(kept)]  # noqa: UP007


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of any other annotation, itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _records(annotation: Any) -> tuple[type[Record], ...]:
    members = _members(annotation)
    return tuple(x for x in members if isinstance(x, type) and issubclass(x, Record))


def _checked(annotation: Any, value: Any) -> Any:
    """`value` in plain types if the annotation allows it.

    Raises:
        msgspec.ValidationError: It does not.
    """
    if records := _records(annotation):
        value = _nested(records, value)
        if isinstance(value, records) or (value is None and NoneType in _members(annotation)):
            return value
        raise msgspec.ValidationError
    outer = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(outer) is tuple and isinstance(value, list | tuple):
        item_records = _records(get_args(outer)[0])
        value = tuple(_nested(item_records, item) for item in value)
    return msgspec.convert(_builtin(value), annotation)


def _nested(records: tuple[type[Record], ...], value: Any) -> Any:
    """A dictionary as the record it describes, chosen by "kind" where there are several; anything
    else as it is.
    """
    if not records or not isinstance(value, Mapping):
        return value
    if len(records) == 1:
        return records[0].from_dict(value)
    chosen = [record for record in records if record.kind == value.get("kind")]
    return chosen[0].from_dict(value) if chosen else value


def _builtin(value: Any) -> Any:
    """Numbers of any library as int and float, paths as text, also inside of lists."""
    if isinstance(value, list | tuple):
        return [_builtin(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _allowed(annotation: Any) -> str:
    """What a field of this annotation may hold, in words."""
    if get_origin(annotation) is Annotated:
        inner, *metas = get_args(annotation)
        meta: Meta = metas[-1]
        return meta.description or _allowed(inner) + _range(meta)
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(map(_allowed, members))
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(repr, get_args(annotation)))}"
    if get_origin(annotation) is tuple:
        return _allowed_tuple(get_args(annotation))
    name = getattr(annotation, "__name__", str(annotation))
    return WORDS.get(name, name)


def _allowed_tuple(items: tuple[Any, ...]) -> str:
    if items[-1] is ...:
        return f"a list, each item {_allowed(items[0])}"
    return f"a list of {', '.join(map(_allowed, items))}"


def _range(meta: Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    if meta.ge is not None:
        return f" of at least {meta.ge}"
    if meta.min_length is not None:
        return f", of {meta.min_length} to {meta.max_length} items"
    return ""
