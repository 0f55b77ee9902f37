#!/usr/bin/env python3
"""Writes trawl_client/api.py, made of openapi/openapi.json; with --check, says whether it is in step."""

import json
import keyword
import re
import sys
from pathlib import Path
from textwrap import fill

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "openapi" / "openapi.json"
TARGET = HERE / "trawl_client" / "api.py"

# Routes made for the clients of other servers, and the document itself.
LEFT_OUT = re.compile(r"tei_|cohere_|openapi$")

# Headers that belong to one request, as arguments; what goes with every request is `Client(headers=…)`.
HEADERS = {
    "Idempotency-Key": ("idempotency_key", "idempotency_key", "A request that is repeated with its `idempotency_key` is written once."),
    "If-Match": ("if_match", "entity_tag(if_match)", "With `if_match`, only while the alias names that generation."),
}

HEAD = '''"""Made of openapi/openapi.json by generate.py; changes here are lost."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, Union, Unpack

from .transport import Transport, entity_tag, quote

'''


def resolve(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def annotation(schema):
    """A schema as a type of Python."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    if "oneOf" in schema:
        kinds = list(dict.fromkeys(annotation(part) for part in schema["oneOf"]))
        return kinds[0] if len(kinds) == 1 else f"Union[{', '.join(kinds)}]"
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [annotation({**schema, "type": one}) for one in kind]
        return f"Union[{', '.join(kinds)}]"
    match kind:
        case "array":
            return f"list[{annotation(schema.get('items', {}))}]"
        case "object":
            values = schema.get("additionalProperties")
            return f"dict[str, {annotation(values) if isinstance(values, dict) else 'Any'}]"
        case "null":
            return "None"
        case None:
            return "Any"
    return {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}[kind]


def fields(document, schema):
    """Name, schema and whether it has to be there, for every field of an object."""
    schema = resolve(document, schema)
    for part in schema.get("allOf", []):
        yield from fields(document, part)
    for name, field in schema.get("properties", {}).items():
        yield name, field, name in schema.get("required", [])


def text(schema, indent):
    lines = schema.get("description", "").split("\n\n")
    lines = [fill(" ".join(line.split()), 110 - len(indent), break_on_hyphens=False) for line in lines if line]
    return "\n\n".join(lines).replace("\n", f"\n{indent}").replace(f"\n{indent}\n", "\n\n")


def docstring(words, indent):
    return f'{indent}"""{words}"""\n' if "\n" not in words else f'{indent}"""{words}\n{indent}"""\n'


def typed(document, name, schema):
    if schema.get("type") != "object" and "allOf" not in schema:
        return f"{name} = {annotation(schema)}\n"
    rows = list(fields(document, schema))
    if all(field.isidentifier() and not keyword.iskeyword(field) for field, _, _ in rows):
        out = f"class {name}(TypedDict):\n" + docstring(text(schema, "    "), "    ")
        for field, kind, required in rows:
            note = annotation(kind) if required else f"NotRequired[{annotation(kind)}]"
            out += f"\n    {field}: {note}\n" + docstring(text(kind, "    "), "    ") if kind.get("description") else f"\n    {field}: {note}\n"
        return out
    out = f"{name} = TypedDict(\n    {name!r},\n    {{\n"
    for field, kind, required in rows:
        out += f"        {field!r}: {annotation(kind) if required else f'NotRequired[{annotation(kind)}]'!r},\n".replace('"', "")
    return out + "    },\n)\n"


def method(document, verb, path, operation):
    parameters = [p for p in operation.get("parameters", []) if p["in"] == "path"]
    headers = [(p["name"], *HEADERS[p["name"]]) for p in operation.get("parameters", []) if p["name"] in HEADERS]
    arguments = ["self", *(f"{p['name']}: str" for p in parameters)]
    if parameters:
        arguments.append("/")
    body = operation.get("requestBody")
    given = "None"
    if body:
        schema = body["content"]["application/json"]["schema"]
        # One that may be left out is sent empty.
        schema = next((part for part in schema.get("oneOf", []) if "$ref" in part), schema)
        name = annotation(schema)
        unpacked = resolve(document, schema).get("type") == "object"
        if not unpacked:
            arguments.append(f"body: {name}")
        if headers:
            arguments += ["*", *(f"{argument}: str | None = None" for _, argument, _, _ in headers)]
        if unpacked:
            arguments.append(f"**body: Unpack[{name}]")
        given = "body"
    [(_, answer)] = [(s, r) for s, r in operation["responses"].items() if s.startswith("2")]
    kind, content = next(iter(answer.get("content", {}).items()), (None, None))
    kept, returned = ("return ", annotation(content["schema"])) if content else ("", "None")
    words = "\n\n".join(filter(None, [operation["summary"] + ".", operation.get("description", ""), *(said for *_, said in headers)]))
    where = re.sub(r"\{(\w+)\}", r"{quote(\1)}", path)
    where = f"f{where!r}" if parameters else repr(where)
    call = "call" if kind == "application/json" else "text"
    if headers:
        given += ", {" + ", ".join(f"{header.lower()!r}: {value}" for header, _, value, _ in headers) + "}"
    return (
        f"    def {operation['operationId']}({', '.join(arguments)}) -> {returned}:\n"
        + docstring(text({"description": words}, "        "), "        ")
        + f"        {kept}self.{call}({verb.upper()!r}, {where}, {given})\n"
    )


def reached(document, schema, names):
    """Adds the names of all schemas that one leads to."""
    if isinstance(schema, dict):
        if "$ref" in schema and schema["$ref"].startswith("#/components/schemas/"):
            name = schema["$ref"].rsplit("/", 1)[1]
            if name not in names:
                names.add(name)
                reached(document, document["components"]["schemas"][name], names)
        for key, value in schema.items():
            if key not in ("example", "examples", "default"):
                reached(document, value, names)
    elif isinstance(schema, list):
        for value in schema:
            reached(document, value, names)


def written(document):
    operations = [
        (verb, path, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
        if not LEFT_OUT.match(operation["operationId"])
    ]
    names = {"Problem"}
    reached(document, document["components"]["schemas"]["Problem"], names)
    for _, _, operation in operations:
        good = {s: r for s, r in operation["responses"].items() if s.startswith("2")}
        reached(document, [operation.get("requestBody"), good], names)
    schemas = document["components"]["schemas"]
    # Names have to be there where one stands for another.
    aliases = [name for name in sorted(names) if not typed(document, name, schemas[name]).startswith("class")]
    classes = [name for name in sorted(names) if name not in aliases]
    out = HEAD
    for name in [*classes, *in_order(document, aliases)]:
        out += f"\n{typed(document, name, schemas[name])}\n"
    out += '\nclass Client(Transport):\n    """A server, with a method for each of its operations."""\n'
    for operation in operations:
        out += "\n" + method(document, *operation)
    return out


def in_order(document, aliases):
    """Those that others are made of come first."""
    done = []

    def visit(name):
        needed = set()
        reached(document, document["components"]["schemas"][name], needed)
        for other in sorted(needed):
            if other in aliases and other not in done and other != name:
                visit(other)
        if name not in done:
            done.append(name)

    for name in aliases:
        visit(name)
    return done


if __name__ == "__main__":
    made = written(json.loads(DOCUMENT.read_text()))
    if "--check" not in sys.argv:
        TARGET.write_text(made)
    elif TARGET.read_text() != made:
        sys.exit("clients/python is not what openapi.json says; write it anew: clients/python/generate.py")
