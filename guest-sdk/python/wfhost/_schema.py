"""JSON Schemas of Python's types, values of them out of JSON, and JSON out of them.

Known are JSON's own types, ``list``, ``tuple``, ``set``, ``dict``, ``Optional`` and unions, ``Literal``,
``Enum``, ``datetime``, dataclasses, ``TypedDict``, ``NamedTuple``, ``Annotated`` (a text in it is the
description), and pydantic's models.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import json as _json
import types
import typing
from typing import Any, Mapping

_NONE = type(None)
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", _NONE: "null"}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)
_SETS = (set, frozenset, collections.abc.Set)
_DICTS = (dict, collections.abc.Mapping)
_MISSING = dataclasses.MISSING


class Misfit(ValueError):
    """A value does not fit its type. ``path`` is where, from the inside out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def __str__(self) -> str:
        place = ".".join(reversed(self.path))
        return f"{place}: {self.problem}" if place else self.problem


def _is_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate")


def _is_pydantic_1(kind: Any) -> bool:
    """Models of pydantic 1, which is Python alone and so runs in a component."""
    return isinstance(kind, type) and hasattr(kind, "__fields__") and hasattr(kind, "parse_obj") and hasattr(kind, "schema")


def _members(kind: Any) -> dict[str, tuple[Any, bool, Any]] | None:
    """The members of a record: its type, whether it has to be there, and its metadata."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {
            field.name: (
                hints[field.name],
                field.default is _MISSING and field.default_factory is _MISSING,
                field.metadata,
            )
            for field in dataclasses.fields(kind)
            if field.init
        }
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {name: (_bare(hint), _is_required(kind, name, hint), {}) for name, hint in hints.items()}
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind, include_extras=True)
        defaults: Mapping[str, Any] = getattr(kind, "_field_defaults", {})
        return {name: (hints.get(name, Any), name not in defaults, {}) for name in kind._fields}
    return None


# The marks of `TypedDict`.
_MARKS = [typing.Required, typing.NotRequired]
if hasattr(typing, "ReadOnly"):
    _MARKS.append(typing.ReadOnly)


def _is_required(kind: Any, name: str, hint: Any) -> bool:
    # Annotations that are texts hide their marks from the class itself.
    while (mark := typing.get_origin(hint)) in _MARKS:
        if mark in (typing.Required, typing.NotRequired):
            return mark is typing.Required
        (hint,) = typing.get_args(hint)
    return name in kind.__required_keys__


def _bare(hint: Any) -> Any:
    while typing.get_origin(hint) in _MARKS:
        (hint,) = typing.get_args(hint)
    return hint


def schema_of(kind: Any) -> Any:
    """The JSON Schema of a type. One that is a JSON Schema already, a dict, stays as it is."""
    if isinstance(kind, dict):
        return kind
    definitions: dict[str, Any] = {}
    schema = _schema(kind, definitions)
    if definitions:
        schema = {**schema, "$defs": definitions}
    return schema


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind is Any or kind is object:
        return {}
    if kind is None:
        return {"type": "null"}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is datetime.datetime:
        return {"type": "string", "format": "date-time"}
    if kind is datetime.date:
        return {"type": "string", "format": "date"}
    if _is_pydantic(kind):
        inner = kind.model_json_schema()
        definitions.update(inner.pop("$defs", {}))
        definitions[kind.__name__] = inner
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if _is_pydantic_1(kind):
        inner = kind.schema(ref_template="#/$defs/{model}")
        definitions.update(inner.pop("definitions", {}))
        definitions[kind.__name__] = inner
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        schema = _schema(arguments[0], definitions)
        texts = [extra for extra in arguments[1:] if isinstance(extra, str)]
        return {**schema, "description": " ".join(texts)} if texts else schema
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin in _LISTS or kind in _LISTS:
        return {"type": "array", "items": _schema(arguments[0], definitions)} if arguments else {"type": "array"}
    if origin in _SETS or kind in _SETS:
        items = {"items": _schema(arguments[0], definitions)} if arguments else {}
        return {"type": "array", "uniqueItems": True, **items}
    if origin is tuple or kind is tuple:
        return _schema_of_tuple(arguments, definitions)
    if origin in _DICTS or kind in _DICTS:
        values = {"additionalProperties": _schema(arguments[1], definitions)} if arguments else {}
        return {"type": "object", **values}
    if (members := _members(kind)) is not None:
        if kind.__name__ not in definitions:
            # Its name first: it may contain itself.
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _schema_of_members(kind, members, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    raise TypeError(f"{kind!r} has no JSON Schema: take a dataclass, a TypedDict, or types of JSON")


def _schema_of_tuple(arguments: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if not arguments:
        return {"type": "array"}
    items = [_schema(argument, definitions) for argument in arguments]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _schema_of_members(kind: Any, members: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for name, (hint, _, metadata) in members.items():
        properties[name] = _schema(hint, definitions)
        if "description" in metadata:
            properties[name] = {**properties[name], "description": metadata["description"]}
    required = [name for name, (_, is_required, _) in members.items() if is_required]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    # Dataclasses write one of their own if there is none.
    if (text := kind.__doc__) and not text.startswith(f"{kind.__name__}("):
        schema["description"] = text.strip()
    return schema


def decode(kind: Any, value: Any) -> Any:
    """A value of a type out of JSON.

    Raises:
        Misfit: It does not fit.
    """
    if kind is Any or kind is object or isinstance(kind, dict):
        return value
    if kind in _PLAIN or kind is None:
        return _decode_plain(_NONE if kind is None else kind, value)
    if kind is datetime.datetime or kind is datetime.date:
        if not isinstance(value, str):
            raise Misfit(f"a time was expected, not {_name(value)}")
        try:
            return kind.fromisoformat(value)
        except ValueError as error:
            raise Misfit(str(error)) from None
    if _is_pydantic(kind):
        try:
            return kind.model_validate(value)
        except ValueError as error:
            raise Misfit(str(error)) from error
    if _is_pydantic_1(kind):
        try:
            return kind.parse_obj(value)
        except ValueError as error:
            raise Misfit(str(error)) from error
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _one_of(kind, value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return decode(arguments[0], value)
    if origin is typing.Literal:
        if any(value == known and type(value) is type(known) for known in arguments):
            return value
        raise Misfit(f"one of {', '.join(map(repr, arguments))} was expected, not {_excerpt(value)}")
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value)
    if origin in _LISTS or kind in _LISTS:
        return _decode_items(value, arguments[0] if arguments else Any)
    if origin in _SETS or kind in _SETS:
        made = frozenset if frozenset in (origin, kind) else set
        return made(_decode_items(value, arguments[0] if arguments else Any))
    if origin is tuple or kind is tuple:
        return _decode_tuple(arguments, value)
    if origin in _DICTS or kind in _DICTS:
        if not isinstance(value, dict):
            raise Misfit(f"an object was expected, not {_name(value)}")
        return {name: _at(name, arguments[1] if arguments else Any, member) for name, member in value.items()}
    if (members := _members(kind)) is not None:
        return _decode_members(kind, members, value)
    raise TypeError(f"{kind!r} cannot be read from JSON: take a dataclass, a TypedDict, or types of JSON")


def _at(place: str, kind: Any, value: Any) -> Any:
    try:
        return decode(kind, value)
    except Misfit as misfit:
        misfit.path.append(place)
        raise


def _decode_plain(kind: type, value: Any) -> Any:
    # A bool is an int in Python, and a whole float is an integer in JSON.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise Misfit(f"{_PLAIN[kind]} was expected, not {_name(value)}")


def _one_of(kind: Any, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise Misfit(f"one of {known} was expected, not {_excerpt(value)}") from None


def _decode_union(arguments: tuple[Any, ...], value: Any) -> Any:
    problems = []
    for argument in arguments:
        try:
            return decode(argument, value)
        except Misfit as misfit:
            problems.append(misfit)
    # `Optional` has one way to be wrong.
    if len(problems) == 2 and _NONE in arguments:
        raise problems[1 - arguments.index(_NONE)]
    raise Misfit("; ".join(map(str, problems)))


def _decode_items(value: Any, kind: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Misfit(f"an array was expected, not {_name(value)}")
    return [_at(str(index), kind, item) for index, item in enumerate(value)]


def _decode_tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not arguments or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return tuple(_decode_items(value, arguments[0] if arguments else Any))
    if not isinstance(value, list) or len(value) != len(arguments):
        raise Misfit(f"an array of {len(arguments)} was expected, not {_excerpt(value)}")
    pairs = zip(arguments, value)
    return tuple(_at(str(index), kind, item) for index, (kind, item) in enumerate(pairs))


def _decode_members(kind: Any, members: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise Misfit(f"an object was expected, not {_name(value)}")
    given = {}
    for name, (hint, is_required, _) in members.items():
        if name in value:
            given[name] = _at(name, hint, value[name])
        elif is_required:
            raise Misfit(f"`{name}` is missing")
    if typing.is_typeddict(kind):
        return {**value, **given}
    return kind(**given)


def _name(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return _excerpt(value)


def _excerpt(value: Any) -> str:
    text = value if isinstance(value, str) else _json.dumps(value, ensure_ascii=False)
    return f"{text[:200]}..." if len(text) > 200 else text


def decode_answer(kind: Any, output: Any) -> Any:
    """The data of an agent's answer. If it answered with text, the text is parsed as JSON."""
    if not isinstance(output, str):
        return decode(kind, output)
    try:
        value = _json.loads(output)
    except ValueError as error:
        problem: ValueError = error
    else:
        try:
            return decode(kind, value)
        except Misfit as misfit:
            problem = misfit
    if kind is Any:
        raise Misfit(str(problem))
    try:
        # A type that is made of a text takes the text itself.
        return decode(kind, output)
    except Misfit:
        raise Misfit(str(problem)) from None


def encode(value: Any) -> Any:
    """For ``json.dumps``: what it does not know itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        return dump(mode="json")
    if _is_pydantic_1(type(value)):
        return _json.loads(value.json())
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset)):
        # Their own order is that of hashes.
        return sorted(value, key=lambda item: _json.dumps(item, default=encode, sort_keys=True))
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
