"""JSON schemas from the descriptions that clouds and operators publish, made strict: a key they do not name is refused,
where the servers themselves would drop it without a word."""

from typing import Any


def strict(node: Any, definitions: str = "") -> Any:
    """The description as a JSON schema. Names that `$ref` gives are looked up below `definitions`."""
    if isinstance(node, list):
        return [strict(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    # A value of `properties` may itself be called `properties` or `format`, so only the values are gone into.
    made = {key: strict(value, definitions) for key, value in node.items() if key not in ("properties", "required")}
    if isinstance(node.get("required"), list):  # in Google's descriptions it says of one value that it has to be there
        made["required"] = node["required"]
    if "$ref" in node:
        return {"$ref": f"#/{definitions}/{node['$ref']}"}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if node.get("type") == "any":
        return {}
    if "properties" in node:
        made["properties"] = {name: strict(value, definitions) for name, value in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made
