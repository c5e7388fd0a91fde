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
from typing import Any, Callable, Mapping

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


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


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
    if _is_named_tuple(kind):
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


class _Definitions:
    """The schemas of types that have a name."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        # What a library gave, where it could keep its own names.
        self._given: dict[str, Any] = {}

    def name_of(self, kind: Any, make: Callable[[], Any]) -> str:
        """The name of a type, whose schema is made if it is new. It may contain itself."""
        if kind not in self._names:
            name = self._names[kind] = self._reserve(kind.__name__)
            self.schemas[name] = make()
        return self._names[kind]

    def name_of_model(self, kind: Any, schema: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
        """The name of a type whose schema comes from a library, with the definitions that it refers to."""
        if kind in self._names:
            return self._names[kind]
        renamed: dict[str, str] = {}
        if any(name in self.schemas and not self._is_known(name, part) for name, part in parts.items()):
            renamed = {name: self._reserve(name) for name in parts}
        for name, part in parts.items():
            self.schemas[renamed.get(name, name)] = _with_references(part, renamed)
            if not renamed:
                self._given[name] = part
        # One that contains itself is a part.
        whole, _, part = schema["$ref"].rpartition("/") if set(schema) == {"$ref"} else ("", "", "")
        if whole == "#/$defs" and part in parts:
            name = renamed.get(part, part)
        elif not renamed and self._is_known(kind.__name__, schema):
            name = kind.__name__
        else:
            name = self._reserve(kind.__name__)
            self.schemas[name] = _with_references(schema, renamed)
            if not renamed and name == kind.__name__:
                self._given[name] = schema
        self._names[kind] = name
        return name

    def _is_known(self, name: str, schema: Any) -> bool:
        return name in self._given and self._given[name] == schema

    def _reserve(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.schemas:
            number += 1
            name = f"{wanted}{number}"
        self.schemas[name] = {}
        return name


def _with_references(schema: Any, renamed: Mapping[str, str]) -> Any:
    """A schema that refers to definitions by their new names."""
    if isinstance(schema, dict):
        return {key: _with_references(value, renamed) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_with_references(item, renamed) for item in schema]
    if isinstance(schema, str) and schema.startswith("#/$defs/"):
        name = schema.removeprefix("#/$defs/")
        return f"#/$defs/{renamed.get(name, name)}"
    return schema


def schema_of(kind: Any) -> Any:
    """The JSON Schema of a type. One that is a JSON Schema already, a dict, stays as it is."""
    if isinstance(kind, dict):
        return kind
    definitions = _Definitions()
    schema = _schema(kind, definitions)
    if definitions.schemas:
        schema = {**schema, "$defs": definitions.schemas}
    return schema


def _schema(kind: Any, definitions: _Definitions) -> dict[str, Any]:
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
        inner = dict(kind.model_json_schema())
        parts = inner.pop("$defs", {})
        return {"$ref": f"#/$defs/{definitions.name_of_model(kind, inner, parts)}"}
    if _is_pydantic_1(kind):
        # A copy: it keeps what it has made.
        inner = dict(kind.schema(ref_template="#/$defs/{model}"))
        parts = inner.pop("definitions", {})
        return {"$ref": f"#/$defs/{definitions.name_of_model(kind, inner, parts)}"}
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
        name = definitions.name_of(kind, lambda: _schema_of_members(kind, members, definitions))
        return {"$ref": f"#/$defs/{name}"}
    raise TypeError(f"{kind!r} has no JSON Schema: take a dataclass, a TypedDict, or types of JSON")


def _schema_of_tuple(arguments: tuple[Any, ...], definitions: _Definitions) -> dict[str, Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if not arguments:
        return {"type": "array"}
    items = [_schema(argument, definitions) for argument in arguments]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _schema_of_members(kind: Any, members: Any, definitions: _Definitions) -> dict[str, Any]:
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
    # Python itself writes one as an array.
    if isinstance(value, list) and _is_named_tuple(kind) and len(value) == len(members):
        value = dict(zip(members, value))
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


def decode_answer(kind: Any, output: Any, has_schema: bool = False) -> Any:
    """The data of an agent's answer. If it answered with text, the text is parsed as JSON, unless the call had a
    schema: then the host has read the answer as that wants it, and text in it is text."""
    if not isinstance(output, str):
        return decode(kind, output)
    if has_schema:
        try:
            return decode(kind, output)
        except Misfit:
            pass
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


def plain(value: Any) -> Any:
    """A value for ``json.dumps``, which would write named tuples as arrays."""
    if _is_named_tuple(type(value)):
        return {name: plain(item) for name, item in zip(value._fields, value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def encode(value: Any) -> Any:
    """For ``json.dumps``: what it does not know itself."""
    return plain(_encode(value))


def _encode(value: Any) -> Any:
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
