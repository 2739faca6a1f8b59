"""Addresses without their secrets, fit to be shown, logged and stored."""

from urllib.parse import SplitResult, urlsplit, urlunsplit


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
    if separator and "://" in value and "://" not in name:
        return f"{name}={redact(value)}"
    return redact(argument)


def split_uri(uri: str) -> SplitResult | None:
    """The parts of a URI; None where it is none."""
    try:
        return urlsplit(uri)
    except ValueError:
        return None
