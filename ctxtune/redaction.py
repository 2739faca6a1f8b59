"""Addresses without their secrets, fit to be shown, logged and stored."""

import os
import re
from urllib.parse import SplitResult, urlsplit

_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>]+""")
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_?KEY|CREDENTIAL", re.IGNORECASE)
_AUTHORITY = re.compile(r"[^/?#]*")
_WITHOUT_SLASHES = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/?)?/{0,2}[^\s/:@=]+:[^\s@]+@")
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]+(%\w+)?\]")
_WEB = ("http", "https")
MOST_GUESSED = 3
"""Characters of a value so short that it stands in any text."""


def redact(uri: str) -> str:
    """The URI without user name, password, query and fragment: fit to be shown, logged and stored.

    A password may hold signs that belong encoded: databases take it nevertheless. Where it cannot be told which part is the
    password, nothing but the scheme is left.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        found = _WITHOUT_SLASHES.match(uri)
        return f"{found['scheme'] or ''}***" if found else uri
    authority = _AUTHORITY.match(rest)
    assert authority is not None  # it matches also nothing
    head, tail = authority[0], rest[authority.end() :]
    if not head:  # a file's, or a database's on this machine
        return f"{scheme}://{rest.partition('?')[0]}"
    if "@" in head:
        rest = head.rpartition("@")[2] + tail
        if "@" in tail:
            return f"{scheme}://***"
    elif "@" in tail and not _names_a_port(scheme, head):
        if rest.count("@") > 1 or scheme in _WEB or "=" in rest.partition("@")[0].partition("?")[2]:
            return f"{scheme}://***"
        rest = rest.partition("@")[2]
    return f"{scheme}://{re.split('[?#;]', rest, maxsplit=1)[0]}"


def _names_a_port(scheme: str, head: str) -> bool:
    """Whether what stands before the path is a host, with or without a port, and cannot be `user:the-begin-of-a-password`."""
    _, separator, port = head.rpartition(":")
    return not separator or bool(_IPV6.fullmatch(head)) or (port.isdecimal() and scheme in _WEB)


def redact_argument(argument: str) -> str:
    """A command-line argument such as ``tracking.uri=https://user:password@host`` without its secrets."""
    name, separator, value = argument.partition("=")
    if separator and name.strip().startswith("notify"):
        return f"{name}=***"
    if separator and "://" not in name:
        return f"{name}={redact(value)}"
    return redact(argument)


def redact_addresses(text: str) -> str:
    """A message with the addresses in it redacted that hold a password, or what may be a key."""

    def fit(found: re.Match[str]) -> str:
        address = found[0]
        return redact(address) if "@" in address or _SECRET_NAME.search(address) else address

    return _ADDRESS.sub(fit, text)


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
