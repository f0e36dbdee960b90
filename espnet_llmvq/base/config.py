"""YAML configs: reading, inheritance, `key=value` laid over them, and typed ones as dataclasses."""

import dataclasses
import math
import os
import types
import typing

from espnet_llmvq.base.errors import UserError, check_name


def _check_keys(node, path):
    """Raise UserError for a key that stands twice in a mapping; PyYAML keeps the last one in silence."""
    import yaml

    left, seen = [node], set()
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
            continue
        first = {}
        for key, value in node.value:
            left.append(value)
            name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
            before = first.setdefault(name, key)
            if before is not key:
                lines = [k.start_mark.line + 1 for k in (key, before)]
                raise UserError(f"{path}, line {lines[0]}: {name!r} is in line {lines[1]} too; keep one of them")


def read_yaml(path):
    """A YAML mapping. Raises UserError with the file and line of a syntax error or of a key that stands twice."""
    import yaml

    try:
        with open(path, encoding="utf-8") as f:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(f)
            node = loader.get_single_node()
            _check_keys(node, path)
            data = loader.construct_document(node) if node else None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as err:
        raise UserError(f"{path} is not UTF-8: {err}") from None
    except yaml.YAMLError as err:
        raise UserError(f"{path}: {err}") from None
    if not isinstance(data, dict | None):
        raise UserError(f"{path}: expected `key: value` lines")
    return data or {}


def merged(config, changes):
    """A config with `changes` laid over it: keyword arguments (`*_conf`) one level deep, all else replaced."""
    config = dict(config)
    for key, value in changes.items():
        deep = str(key).endswith("_conf") and isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = {**config[key], **value} if deep else value
    return config


def read_based(path, merge, above=()):
    """What a YAML file holds; `base: other.yaml` (relative to it) is read first, then `merge(base, own)`.

    merge: of (mapping, mapping, path of the second). above: the files that led here. Raises UserError for a base that
    leads back to the file itself.
    """
    data, above = read_yaml(path), (*above, os.path.abspath(path))
    base = data.pop("base", None)
    if base is None:
        return merge({}, data, path)
    base = os.path.join(os.path.dirname(path), str(base))
    if os.path.abspath(base) in above:
        raise UserError(f"{path}: its base {base} has this file as its base; one of them must have another or none")
    return merge(read_based(base, merge, above), data, path)


def read_config(path):
    """A training config of a file and of those below it (`read_based`), merged key by key (`merged`)."""
    return read_based(path, lambda below, own, _: merged(below, own))


def read_overrides(pairs):
    """["key=value", ...], values as in YAML -> dict. Raises UserError for a pair that is none."""
    import yaml

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UserError(f"override {pair!r}: expected key=value")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as err:
            raise UserError(f"override {pair!r}: the value is not YAML: {str(err).splitlines()[0]}") from None
    return found


def option(default, text, choices=()):
    """Field of a dataclass that a command takes as an option too: its default, help, and the words allowed."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "keys and values"}


def from_mapping(cls, values, where):
    """A dataclass from a mapping (of YAML, JSON or options), its keys and types checked.

    Fields may be bool, int, float, str, dict, another dataclass, `tuple[X, ...]` or `tuple[X, Y]` of these (lists in
    the mapping), `X | None`, `Literal[...]`. An int does for a float, and so does a text such as "1e-3", which YAML
    does not take for a number. where: what the mapping is, in messages. Raises UserError for an unknown key, with the
    nearest valid one, for one that is missing, for a value of another type, and for what the class itself refuses.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected keys and values, not {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        check_name(f"key in {where}", key, fields)
    made = {key: _typed(hints[key], value, where, key) for key, value in values.items()}
    for name, field in fields.items():
        if name not in made and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: {name} is missing")
    try:
        return cls(**made)
    except UserError as err:
        raise UserError(f"{where}: {err}") from None


def _typed(kind, value, where, key):
    """A value as the type `kind` of a field wants it. Raises UserError."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inside:
            return None
        (kind,) = (k for k in inside if k is not type(None))
        return _typed(kind, value, where, key)
    if dataclasses.is_dataclass(kind):
        return from_mapping(kind, value, f"{where}: {key}")
    if origin is typing.Literal:
        if value not in inside or type(value) not in map(type, inside):
            check_name(f"{key} in {where}", str(value), list(map(str, inside)))
            raise UserError(f"{where}: {key} is {value!r}; it must be one of {', '.join(map(repr, inside))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {key} is {value!r}; it must be a list")
        if inside[-1] is Ellipsis:
            inside = inside[:1] * len(value)
        if len(inside) != len(value):
            raise UserError(f"{where}: {key} is {value!r}; it must be a list of {len(inside)}")
        return tuple(_typed(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(zip(inside, value)))
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    hint = "; put quotes around it" if kind is str else ""
    raise UserError(f"{where}: {key} is {value!r}; it must be {KINDS[kind]}{hint}")
