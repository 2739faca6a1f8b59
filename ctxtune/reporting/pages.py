"""HTML pages from templates: everything inside, no network, no script."""

from functools import lru_cache

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from ctxtune.palette import PAGE_COLORS


def render(template: str, **content: object) -> str:
    """A template of `templates/` with its content; texts are escaped."""
    return _environment().get_template(template).render(colors=PAGE_COLORS, **content)


def fragment(template: str, macro: str, **content: object) -> Markup:
    """What one macro of a template makes of its arguments."""
    module = _environment().get_template(template).make_module({"colors": PAGE_COLORS})
    made: Markup = getattr(module, macro)(**content)
    return made


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ctxtune.reporting"),
        autoescape=select_autoescape(["html", "j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
