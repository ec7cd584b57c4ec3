"""What the JSON Schema has against a configuration, in words for people. Pure: data in, problems out.

The schema says what each key may hold; its `title` is the wording of "what would be right". jsonschema does the
judging; here its errors become sentences with the key, the value and the nearest right one.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from smtpguard.settings.formats import FormatFault
from smtpguard.settings.notations import fits_pattern
from smtpguard.settings.yaml_lines import Path, Problem, show_key, show_path, show_value

_MAX_ERRORS = 200
"""More errors than that are not even collected."""
_TYPES = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}


_ABOUT_CHILDREN = frozenset({"additionalProperties", "required"})
_NOT_THIS_KIND = frozenset({"type", "enum", "const"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFault:
    """One error of jsonschema, with what of it is needed.

    Attributes:
        keyword: Keyword of the schema that the value breaks.
        expected: What stands under that keyword.
        schema: The part of the schema that holds the keyword.
        title: What would be right, from the schema or from further out.
        path: The value.
        value: What it is.
        cause: What a format has against it; "" if nothing in particular.
        message: jsonschema's own.
    """

    keyword: str
    expected: Any
    schema: Mapping[str, Any]
    title: str | None
    path: Path
    value: Any
    cause: str
    message: str

    @property
    def spoils_value(self) -> bool:
        """Whether the value itself is wrong, rather than what it contains."""
        return self.keyword not in _ABOUT_CHILDREN


def _judge_pattern(
    validator: Any,  # noqa: ANN401 - jsonschema's
    pattern: str,
    value: object,
    schema: object,
) -> Iterator[ValidationError]:
    """The keyword `pattern`, as ECMA 262 has it."""
    del validator, schema
    if isinstance(value, str) and not fits_pattern(pattern, value):
        yield ValidationError(f"{value!r} does not fit {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _judge_pattern})  # type: ignore[no-untyped-call]


def find_schema_faults(given: object, schema: Mapping[str, Any]) -> list[SchemaFault]:
    """What the schema has against a configuration.

    Args:
        given: Content of the file.
        schema: The JSON Schema.
    """
    errors = _Validator(schema).iter_errors(given)
    return [fault for error in islice(errors, _MAX_ERRORS) for fault in _find_leaves(error, None)]


def as_schema_fault(fault: FormatFault) -> SchemaFault:
    """A text that is not in its format, as what the schema has against it."""
    return SchemaFault(
        keyword="format",
        expected=fault.schema["format"],
        schema=fault.schema,
        title=fault.title,
        path=fault.path,
        value=fault.value,
        cause=fault.cause,
        message=fault.cause,
    )


def _find_leaves(error: ValidationError, title: str | None) -> Iterator[SchemaFault]:
    """An error; for "any of these" those inside the one alternative that has the right type, if there is one."""
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    title = schema.get("title", title)
    branches: dict[object, list[ValidationError]] = {}
    if error.validator == "anyOf":
        for inner in error.context or ():
            branches.setdefault(inner.schema_path[0], []).append(inner)
    fitting = [
        branch
        for branch in branches.values()
        if not any(e.absolute_path == error.absolute_path and e.validator in _NOT_THIS_KIND for e in branch)
    ]
    if len(fitting) == 1:
        for inner in fitting[0]:
            yield from _find_leaves(inner, title if inner.absolute_path == error.absolute_path else None)
        return
    yield SchemaFault(
        keyword=str(error.validator),
        expected=error.validator_value,
        schema=schema,
        title=title,
        path=tuple(error.absolute_path),
        value=error.instance,
        cause=str(error.cause or ""),
        message=error.message,
    )


_MAILS = "; mails are not counted in this version: use connections, destinations or networks"
_SYNONYMS = {**dict.fromkeys(("mail", "mails", "email", "emails", "message"), _MAILS)} | {
    "connects": "; did you mean 'connections'?",
    "connection": "; did you mean 'connections'?",
    "hosts": "; did you mean 'destinations'?",
}
"""What people write for a value, and is not like it."""
_OF_MAPPINGS = (("rules",), ("users",))
"""Lists whose entries are no single words."""


def explain_fault(fault: SchemaFault, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """A fault in words: one problem, or one for each unknown key.

    Args:
        fault: What is wrong.
        schema: The whole schema, to find the right place of a key.
    """
    where = show_path(fault.path) or "the file"
    value = fault.value
    if fault.keyword == "additionalProperties":
        known = list(fault.schema["properties"])
        for key in value:
            if key not in known:
                yield Problem(path=(*fault.path, key), text=_explain_unknown(fault.path, key, known, schema))
        return
    if fault.keyword == "required":
        # One error comes for each key that lacks; only its message says which.
        missing = [key for key in fault.expected if key not in value]
        lacking = next((key for key in missing if fault.message.startswith(repr(key))), missing[0])
        text = f"{where} lacks the key {lacking!r}"
    elif fault.keyword == "uniqueItems":
        twice = next((entry for index, entry in enumerate(value) if entry in value[:index]), None)
        text = f"{where} names something twice: {show_value(twice)}"
    elif fault.keyword in ("minItems", "minProperties", "maxItems"):
        word = "at most" if fault.keyword == "maxItems" else "at least"
        text = f"{where} has to be {fault.title or f'{word} {fault.expected} entries long'}"
    elif fault.keyword == "enum":
        choices = [str(choice) for choice in fault.expected]
        near = _SYNONYMS.get(str(value).lower(), "") or find_nearest(value, choices)
        text = f"{where}: {show_value(value)} is not one of {', '.join(choices)}{near}"
    else:
        right = fault.title or _TYPES.get(str(fault.schema.get("type")), "what is expected here")
        text = f"{where}: {show_value(value)} is not {right}{_advise(fault)}"
    yield Problem(path=fault.path, text=text)


def _advise(fault: SchemaFault) -> str:
    """What a person who wrote that may have meant, or what exactly is wrong with it."""
    if isinstance(fault.value, str) and fault.value.isascii() and fault.value.isdigit() and _wants_number(fault.schema):
        return " (take the quotes away)"
    if isinstance(fault.value, str) and fault.value.endswith("\n"):  # `key: |`
        return " (take the end of the line away)"
    if fault.path[-2:-1] == ("users",) and type(fault.value) is int:
        return f" (a uid? Then `uids: [{fault.value}]`; a login of digits goes in quotes)"
    if fault.cause and not fault.cause.startswith("not "):
        return f": {fault.cause}"
    if fault.value is None:
        return " (take the line out to keep the default)"
    if fault.schema.get("type") == "string" and isinstance(fault.value, bool | int | float):
        is_duration = fault.schema.get("format") == "smtpguard-duration"
        if not fits_pattern(str(fault.schema.get("pattern", "")), str(fault.value)):
            return ""
        return " (the unit is missing)" if is_duration else " (put it in quotes)"
    if fault.keyword == "type" and fault.schema.get("type") == "array":
        if isinstance(fault.value, dict):
            return " (each entry begins with `- `)"
        one = "" if fault.path in _OF_MAPPINGS else show_value(fault.value).strip("'")
        return one and f" (put brackets around it: [{one}])"
    if fault.keyword == "type" and fault.path and fault.schema.get("properties"):
        return f"; its keys are {', '.join(fault.schema['properties'])}"
    return ""


def _wants_number(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", ())
    return bool({"integer", "number"}.intersection([kinds] if isinstance(kinds, str) else kinds))


def find_nearest(value: object, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice most like a value; "" if none is like it."""
    near = difflib.get_close_matches(str(value)[:60], list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _explain_unknown(path: Path, key: str, known: list[str], schema: Mapping[str, Any]) -> str:
    place = f" in {show_path(path)}" if path else ""
    near = find_nearest(key, known)
    if not near and "match" in known and key in ("users", "uids", "groups"):
        near = f"; did you mean `match: {{{key}: [...]}}`?"
    if not near:  # the right key in the wrong place?
        elsewhere = {
            name: f"{section}.{name}"
            for section, inner in schema["properties"].items()
            for name in inner.get("properties", ())
        } | {name: name for name in schema["properties"]}
        match = difflib.get_close_matches(key[:60], list(elsewhere), n=1, cutoff=0.8)
        near = f"; did you mean {elsewhere[match[0]]!r}?" if match else f"; known are {', '.join(known)}"
    return f"unknown key {show_key(key)!r}{place}{near}"
