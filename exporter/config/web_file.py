"""The format of ``web_config_file``: YAML as Prometheus' exporter-toolkit reads it, with its keys and types.

Values are never repeated in messages, because they may be secrets.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from exporter.errors import ConfigError, suggestion
from exporter.permissions import unreadable
from exporter.text import open_without_waiting

_LARGEST: Final = 1024 * 1024
_GO_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+|0")
_GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _boolean(value: object) -> object:
    text = str(value).lower()
    if text in {"true", "yes", "on", "y"}:
        return True
    if text in {"false", "no", "off", "n"}:
        return False
    raise ValueError("expected true or false")


def _interval(value: object) -> float:
    text = str(value)
    if text.isascii() and text.isdecimal():  # Go reads a number as nanoseconds
        return int(text[:20]) * 1e-9
    if not _GO_DURATION.fullmatch(text):
        raise ValueError("expected a duration, such as 1s or 100ms")
    return sum(float(number) * _GO_UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ns|us|µs|ms|s|m|h)", text))


Boolean = Annotated[bool, BeforeValidator(_boolean)]
ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]
Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]


class Section(BaseModel):
    """A mapping with known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSection(Section):
    """``tls_server_config``."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: Boolean = True
    curve_preferences: tuple[Literal["CurveP256", "CurveP384", "CurveP521", "X25519", "X25519MLKEM768"], ...] = ()


class HttpSection(Section):
    """``http_server_config``."""

    http2: Boolean = True
    headers: Mapping[str, str | None] = {}


class RateLimitSection(Section):
    """``rate_limit``."""

    interval: Annotated[float, BeforeValidator(_interval)] = 0.0
    burst: int = 0


class WebFile(Section):
    """The whole file."""

    tls_server_config: Annotated[TlsSection | None, BeforeValidator(lambda value: value or None)] = None
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: Mapping[str, str] = {}
    rate_limit: RateLimitSection = RateLimitSection()


class _Loader(yaml.BaseLoader):
    """Reads every value as text, so that a user ``on`` or a password hash stays what it is; empty ones are absent."""

    def construct_scalar(self, node: Any) -> Any:  # noqa: ANN401  # PyYAML's node
        """The text, or None for an empty value."""
        text = super().construct_scalar(node)
        return None if node.style is None and text in {"", "~", "null", "Null", "NULL"} else text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401, ARG002, FBT001, FBT002  # its signature
        """The mapping without absent values; a key given twice is an error."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "expected text as a key", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, "this key stands here twice", key.start_mark)
            seen.add(key.value)
        mapping = {key.value: self.construct_object(value, deep=True) for key, value in node.value}
        return {key: value for key, value in mapping.items() if value is not None}


def read_web_file(file: Path) -> WebFile:
    """The values in *file*.

    Raises:
        ConfigError: with a line for every problem.
    """
    try:
        return WebFile.model_validate(_yaml(file))
    except ValidationError as error:
        raise ConfigError(*(_problem(each, file) for each in error.errors(include_input=False))) from None


def _yaml(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb", opener=open_without_waiting) as stream:
            raw = stream.read(_LARGEST + 1)
    except OSError as error:
        relative = f"{error.strerror} (in the configuration file, the path is relative to it)"
        raise ConfigError(f"{file}: cannot read the web configuration: {unreadable(error, file, relative)}") from error
    if len(raw) > _LARGEST:
        raise ConfigError(f"{file}: larger than 1 MiB; expected a web configuration file")
    try:
        values = yaml.load(raw, _Loader)  # noqa: S506  # it makes texts, lists and dictionaries only
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, (error.problem or "cannot be read").partition(" '")[0]
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{file}: invalid YAML{where}: {problem}") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{file}: invalid YAML: not UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{file}: invalid YAML: nested too deeply") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{file}: expected keys such as tls_server_config and basic_auth_users")
    return values or {}


_ERROR_TEXTS: Final[Mapping[str, str]] = {
    "int_parsing": "expected a whole number, such as 20",
    "literal_error": "expected {expected}",
    "model_type": "expected keys below it",
    "mapping_type": "expected keys below it",
    "dict_type": "expected keys below it",
    "string_type": "expected text",
    "tuple_type": "expected a list",
}


def _problem(error: ErrorDetails, file: Path) -> str:
    """One line for one of pydantic's errors, without the value."""
    loc = [f"#{part + 1}" if isinstance(part, int) else part for part in error["loc"]]
    if loc[0] == "basic_auth_users":  # a name may be a password in the wrong place
        loc = loc[:1]
    where = f"{file}: {'.'.join(loc)}"
    if error["type"] == "extra_forbidden":
        known = _keys(loc[:-1])
        return f"{where}: unknown key; {suggestion(loc[-1], known, 'known are ' + ', '.join(known))}"
    words = _ERROR_TEXTS.get(error["type"])
    return f"{where}: {words.format(**error.get('ctx', {})) if words else error['msg'].removeprefix('Value error, ')}"


def _keys(loc: list[str]) -> tuple[str, ...]:
    """The keys of a section, or of the file."""
    sections: dict[str, type[Section]] = {
        "tls_server_config": TlsSection,
        "http_server_config": HttpSection,
        "rate_limit": RateLimitSection,
    }
    return tuple((sections[loc[0]] if loc else WebFile).model_fields)
