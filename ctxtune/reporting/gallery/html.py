"""The frame of an HTML page that needs nothing but itself: no network, no script, pictures inside."""

import base64
import io
from html import escape

from PIL import Image

PHOTOGRAPH = 64
"""Pixels: pictures with a longer side are shrunk smoothly and kept as JPEG, smaller ones stay exact as PNG."""

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1b1f24; background: #fff;
  max-width: 1240px; margin: 0 auto; padding: 24px 28px 60px; }
h1 { font-size: 1.6rem; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 6px; padding-top: 14px; border-top: 1px solid #d5dae0; }
p { margin: 6px 0 12px; max-width: 78ch; }
.quiet, caption { color: #57606a; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 10px 0; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: middle; border-bottom: 1px solid #e6e9ed; }
th { font-weight: 600; color: #57606a; }
.number { text-align: right; }
"""


def html_page(title: str, body: str, style: str = "") -> str:
    """A whole HTML document. `title` is plain text; `body` is HTML; `style` is CSS on top of the common one."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def picture(image: Image.Image | None, text: str, side: int = 128) -> str:
    """An image as an HTML element with its bytes inside, at most `side` pixels wide and high.

    `text` is what a reader without the picture gets. None (an unreadable image) becomes a box that says so.
    """
    if image is None:
        return '<span class="unreadable">cannot be read</span>'
    small = max(image.size) <= PHOTOGRAPH
    image = image.convert("RGB")
    if not small:
        # Twice the size on the page: sharp on dense screens.
        image.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = "png" if small else "jpeg"
    pixels = ' class="pixels"' if small else ""
    return f'<img{pixels} alt="{escape(text)}" src="data:image/{kind};base64,{encoded}">'
