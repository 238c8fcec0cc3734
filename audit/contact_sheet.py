"""Draw one pair for the eye: its image and caption, the caption that beats it, and the pictures of its near pairs.

The images come from ``audit.pictures``. One that cannot be had is drawn as a grey box that says why; text alone stays
readable.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from roclip_audit.audit.formats import number_text
from roclip_audit.audit.pictures import CHANGED, NO_IMAGE, NOT_FOUND, Picture, locate_pictures, read_pictures
from roclip_audit.audit.query import clear_errors
from roclip_audit.audit.show import PairReport
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.run import RunFolder, write_atomic
from roclip_audit.core.terminal import printable

SHEET_PX = 1240
MARGIN_PX = 24
LARGE_PX = 560
THUMB_PX = 180
GAP_PX = 20
# Looked for where the system keeps its fonts (Debian: fonts-dejavu-core); without one, letters beyond ASCII are boxes.
TYPEFACES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_INK, _FAINT, _RED, _PAPER, _BOX = "#1a1a1a", "#666666", "#b00020", "#ffffff", "#e4e4e4"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def pictures_of(run: RunFolder, uids: Sequence[str]) -> dict[str, Picture]:
    """Read the pictures of some pairs, no larger than a sheet shows them.

    Args:
        run: the run folder.
        uids: of the pairs; those without an image member get a Picture that says so.
    """
    with open_readonly(run) as connection, clear_errors(run.database):
        places = locate_pictures(connection, uids)
    return dict.fromkeys(uids, Picture(image=None, note=NO_IMAGE)) | dict(read_pictures(places, edge_px=LARGE_PX))


@cache
def _typeface() -> str | None:
    """Return the first of TYPEFACES that this machine has."""
    for name in TYPEFACES:
        with suppress(OSError):
            ImageFont.truetype(name, 12)
            return name
    return None


@cache
def _font(size: int) -> _Font:
    name = _typeface()
    return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)


def _drawable(text: str) -> str:
    """Return text as it can be drawn: Pillow's own typeface has no accents, so they are taken off for it."""
    shown = printable(text, limit=600)
    if _typeface() is not None:
        return shown
    return "".join(c for c in unicodedata.normalize("NFKD", shown) if not unicodedata.combining(c))


def _wrap(text: str, font: _Font, width: int, most: int) -> list[str]:
    """Break text into at most ``most`` lines of ``width`` pixels, anywhere if a word is longer than a line."""
    lines: list[str] = []
    rest = _drawable(text)
    while rest and len(lines) < most:
        fits = _fitting(rest, font, width)
        if fits < len(rest) and len(lines) == most - 1:
            lines.append(rest[: max(1, fits - 1)].rstrip() + "…")
            break
        cut = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else fits
        cut = cut if cut > 0 else fits
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines


def _fitting(text: str, font: _Font, width: int) -> int:
    """Return how many leading characters fit into ``width`` pixels, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


@dataclass(slots=True)
class _Page:
    """A page that grows downwards."""

    image: Image.Image
    y: int = MARGIN_PX

    def text(self, x: int, y: int, text: str, *, size: int, width: int, most: int = 1, ink: str = _INK) -> int:
        """Write wrapped text; return the y below it."""
        pen, font = ImageDraw.Draw(self.image), _font(size)
        for line in _wrap(text, font, width, most):
            pen.text((x, y), line, fill=ink, font=font)
            y += round(size * 1.35)
        return y

    def picture(self, x: int, y: int, picture: Picture, side: int) -> None:
        """Draw a picture into a square, or a box that says why there is none."""
        if picture.image is None:
            ImageDraw.Draw(self.image).rectangle((x, y, x + side, y + side), fill=_BOX)
            self.text(x + 8, y + side // 2 - 10, picture.note, size=14, width=side - 16, most=3, ink=_FAINT)
            return
        scale = side / max(picture.image.size)
        size = tuple(max(1, round(edge * scale)) for edge in picture.image.size)
        shown = picture.image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        self.image.paste(shown, (x + (side - size[0]) // 2, y + (side - size[1]) // 2))
        ImageDraw.Draw(self.image).rectangle((x, y, x + side, y + side), outline=_BOX)


@dataclass(frozen=True, slots=True)
class _Thumb:
    uid: str
    head: str
    caption: str
    ink: str = _INK


def _rows(report: PairReport) -> Iterator[tuple[str, list[_Thumb]]]:
    """Yield the rows of thumbnails below the pair: title and pictures."""
    yield (
        "Images of the captions that come nearest to it (red: they beat its own caption)",
        [_Thumb(r.uid, f"{r.margin:+.3f}", r.caption or "", _RED if r.margin > 0 else _FAINT) for r in report.rivals],
    )
    for kind, title in (("image", "Nearest images, with their captions"), ("caption", "Nearest captions, with images")):
        chosen = [n for n in report.neighbours if n.kind == kind]
        yield title, [_Thumb(n.uid, f"{n.similarity:.3f}", n.caption or "", _FAINT) for n in chosen]


def _draw_pair(page: _Page, report: PairReport, picture: Picture) -> None:
    page.picture(MARGIN_PX, page.y, picture, LARGE_PX)
    x = MARGIN_PX + LARGE_PX + GAP_PX
    width = SHEET_PX - x - MARGIN_PX
    y = page.text(x, page.y, "Caption", size=15, width=width, ink=_FAINT)
    y = page.text(x, y, report.caption or "(none)", size=26, width=width, most=6) + 16
    if report.rivals:
        rival = report.rivals[0]
        beats = rival.margin > 0
        title = f"{'Beaten by' if beats else 'Its nearest rival'} ({rival.margin:+.3f})"
        y = page.text(x, y, title, size=15, width=width, ink=_FAINT)
        y = page.text(x, y, rival.caption or "", size=22, width=width, most=4, ink=_RED if beats else _INK) + 16
    for name in ("suspicion", "fdr", "q", "q_caption", "win_probability", "never_wins", "worst_view", "anomaly"):
        value = report.fact(name)
        if value is not None:
            text = number_text(value) if isinstance(value, float) else str(value).lower()
            page.text(x, y, name, size=17, width=width, ink=_FAINT)
            y = page.text(x + 170, y, text, size=17, width=width - 170)
    footer = f"{report.uid}   {report.shard} / {report.key}"
    page.text(x, page.y + LARGE_PX - 20, footer, size=13, width=width, ink=_FAINT)
    page.y += LARGE_PX + GAP_PX


def _draw_row(page: _Page, title: str, thumbs: Sequence[_Thumb], pictures: dict[str, Picture]) -> None:
    if not thumbs:
        return
    page.y = page.text(MARGIN_PX, page.y, title, size=17, width=SHEET_PX - 2 * MARGIN_PX) + 6
    below = page.y
    for k, thumb in enumerate(thumbs[: (SHEET_PX - 2 * MARGIN_PX + GAP_PX) // (THUMB_PX + GAP_PX)]):
        x = MARGIN_PX + k * (THUMB_PX + GAP_PX)
        page.picture(x, page.y, pictures[thumb.uid], THUMB_PX)
        y = page.text(x, page.y + THUMB_PX + 4, thumb.head, size=14, width=THUMB_PX, ink=thumb.ink)
        below = max(below, page.text(x, y, thumb.caption, size=14, width=THUMB_PX, most=4))
    page.y = below + GAP_PX


def draw_sheet(report: PairReport, pictures: dict[str, Picture]) -> Image.Image:
    """Draw the sheet of one pair.

    Args:
        report: the pair.
        pictures: uid -> picture, of the pair, its rivals and its neighbours.
    """
    page = _Page(Image.new("RGB", (SHEET_PX, 2000), _PAPER))
    _draw_pair(page, report, pictures[report.uid])
    for title, thumbs in _rows(report):
        _draw_row(page, title, thumbs, pictures)
    return page.image.crop((0, 0, SHEET_PX, page.y))


def write_sheet(run: RunFolder, report: PairReport, path: Path) -> None:
    """Write the contact sheet of a pair as PNG, JPEG or WEBP, by the name's ending.

    Args:
        run: the run folder.
        report: the pair, from ``show``.
        path: appears when it is complete.

    Raises:
        ConfigError: another ending.
        ShardError: the pair's own image cannot be read, because its shard is gone or has changed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: a contact sheet is written as {', '.join(SUFFIXES)}")
    uids = [report.uid, *(rival.uid for rival in report.rivals), *(one.uid for one in report.neighbours)]
    pictures = pictures_of(run, list(dict.fromkeys(uids)))
    own = pictures[report.uid]
    if own.image is None and own.note in {NOT_FOUND, CHANGED}:
        raise ShardError(
            f"{report.shard}: no contact sheet, {own.note}; the shards must lie where they were scanned, unchanged"
        )
    sheet = draw_sheet(report, pictures)
    write_atomic(path, sheet.save)
