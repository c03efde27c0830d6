"""Takes an OpenAPI document. Gives the page that names every operation and what it takes and answers.

Knows nothing of the server, beyond where its document comes from.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from docs.generate import markdown
from worker.settings import Settings
from worker.web import server

#: What an answer is that is an error.
PROBLEM = "application/problem+json"

HEAD = """\
# HTTP

`imagemill serve` answers these, and shows the same document to try out at `/docs`, and for programs at `/openapi.json`.
Statuses under *Problems* come as `application/problem+json`, with a `kind` for programs and a sentence for people.

"""

Object = Mapping[str, Any]


def page() -> str:
    """Give the page."""
    return described(server.build(Settings()).openapi())


def described(document: Object) -> str:
    """Give the page of any OpenAPI 3 document."""
    operations = list(_operations(document))
    index = markdown.table(
        ("operation", "about"),
        (
            (f"[`{title}`](#{markdown.anchor(title)})", _about(operation).partition("\n\n")[0])
            for title, operation in operations
        ),
    )
    schemas = document.get("components", {}).get("schemas", {})
    parts = [HEAD, index, *(_operation(title, operation) for title, operation in operations)]
    if schemas:
        parts += ["## Values\n\n", *(_schema(name, schema) for name, schema in sorted(schemas.items()))]
    return "".join(parts).rstrip() + "\n"


def _operations(document: Object) -> Iterator[tuple[str, Object]]:
    for path, methods in document["paths"].items():
        shared = methods.get("parameters", [])
        for method in ("get", "post", "put", "patch", "delete"):
            if method in methods:
                operation = methods[method]
                yield (
                    f"{method.upper()} {path}",
                    {**operation, "parameters": [*shared, *operation.get("parameters", [])]},
                )


def _about(operation: Object) -> str:
    return str(operation.get("description") or operation.get("summary") or "").strip()


def _operation(title: str, operation: Object) -> str:
    parts = [f"### {title}\n\n", f"{_about(operation)}\n\n" if _about(operation) else ""]
    if operation["parameters"]:
        parts.append(markdown.table(("parameter", "in", "type", "meaning"), map(_parameter, operation["parameters"])))
    if body := operation.get("requestBody"):
        parts.append(f"Body: {_contents(body)}.\n\n")
    answers = sorted(operation.get("responses", {}).items())
    told = [(status, answer.get("description", ""), _contents(answer)) for status, answer in answers]
    parts.append(markdown.table(("status", "means", "body"), (row for row in told if PROBLEM not in row[2])))
    problems = [status for status, _, body in told if PROBLEM in body]
    return "".join(parts) + (f"Problems: {', '.join(problems)}.\n\n" if problems else "")


def _parameter(given: Object) -> tuple[str, str, str, str]:
    type_ = _type(given.get("schema", {})) + (", required" if given.get("required") else "")
    return markdown.code(given["name"]), given["in"], type_, given.get("description", "")


def _contents(holder: Object) -> str:
    contents = holder.get("content", {}).items()
    return "; ".join(f"{_type(content.get('schema', {}))} (`{kind}`)" for kind, content in contents)


def _schema(name: str, schema: Object) -> str:
    required = schema.get("required", [])
    rows = (
        (
            markdown.code(field),
            _type(about) + (", required" if field in required else ""),
            _code(about.get("default")),
            about.get("description", ""),
        )
        for field, about in schema.get("properties", {}).items()
    )
    about = markdown.sentence(schema.get("description", "").partition("\n\n")[0])
    table = markdown.table(("field", "type", "default", "meaning"), rows) if schema.get("properties") else ""
    return f"### {name}\n\n" + (f"{about}\n\n" if about else "") + table


def _type(schema: Object) -> str:
    """Say in words what a schema allows."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return " or ".join(markdown.code(str(one)) for one in schema.get("enum", [schema.get("const")]))
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[choice]))
    kind = schema.get("type", "value")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _code(default: object) -> str:
    return "" if default is None else markdown.code(str(default))
