"""Addresses without their secrets, fit to be shown, logged and stored."""

import os
import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>]+""")
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_?KEY|CREDENTIAL", re.IGNORECASE)
MOST_GUESSED = 3
"""Characters of a value so short that it stands in any text."""


def redact(uri: str) -> str:
    """The URI without user name, password, query and fragment: fit to be shown, logged and stored."""
    if "://" not in uri:
        return uri
    parts = split_uri(uri)
    if parts is None:
        return uri.split("://")[0] + "://***"
    location = parts.netloc.rpartition("@")[2]
    return urlunsplit(SplitResult(parts.scheme, location, parts.path, "", "")) if parts.netloc else uri.split("?")[0]


def redact_argument(argument: str) -> str:
    """A command-line argument such as ``tracking.uri=https://user:password@host`` without its secrets."""
    name, separator, value = argument.partition("=")
    if separator and name.startswith("notify"):
        return f"{name}=***"
    if separator and "://" in value and "://" not in name:
        return f"{name}={redact(value)}"
    return redact(argument)


def without_secrets(text: str) -> str:
    """A text of any kind with the secrets blotted out that stand in addresses or in the environment's variables."""
    text = _ADDRESS.sub(lambda found: redact(found[0]), text)
    secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) > MOST_GUESSED}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def split_uri(uri: str) -> SplitResult | None:
    """The parts of a URI; None where it is none."""
    try:
        return urlsplit(uri)
    except ValueError:
        return None
