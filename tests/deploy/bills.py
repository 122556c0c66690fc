"""Checks bills of materials against the schema of their format."""

import json


def mistakes(bill: str) -> list[str]:
    """What is wrong with a bill of materials."""
    # Not at the top: this builds grammars for a second and a half, and every worker of the tests imports this module.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    version = SchemaVersion.from_version(json.loads(bill)["specVersion"])
    errors = JsonStrictValidator(version).validate_str(bill, all_errors=True)
    return [str(each) for each in errors or ()]
