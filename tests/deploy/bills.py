"""Checks bills of materials against the schema of their format."""

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def mistakes(bill: str) -> list[str]:
    """What is wrong with a bill of materials."""
    version = SchemaVersion.from_version(json.loads(bill)["specVersion"])
    errors = JsonStrictValidator(version).validate_str(bill, all_errors=True)
    return [str(each) for each in errors or ()]
