"""Decoding hostile images: every mode becomes RGB, every kind of damage one kind of failure with a reason."""

from __future__ import annotations

import io
import resource
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from roclip_audit.core.images import FORMATS, ImageProblem, decode, decode_image, dhash
from roclip_audit.core.problems import REASONS

MAX_PIXELS = 1_000_000


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with_header(width: int, height: int, *extra: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))


def reason(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode(data, max_pixels=max_pixels)
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_three_formats_decode_to_what_was_saved(image_format: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(image_format, {})
    decoded = decode(encoded(picture(), image_format, **options), max_pixels=MAX_PIXELS)
    assert (decoded.format, decoded.n_frames, decoded.image.mode) == (image_format, 1, "RGB")
    difference = np.abs(np.asarray(decoded.image).astype(int) - np.asarray(picture()).astype(int))
    assert difference.max() <= (0 if image_format != "JPEG" else 6)
    assert decode_image(encoded(picture(), "PNG"), MAX_PIXELS) == picture()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_become_rgb(mode: str) -> None:
    image = picture().convert("L").convert(mode) if mode in ("1", "L", "LA") else picture().convert(mode)
    decoded = decode_image(encoded(image, "PNG"), MAX_PIXELS)
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(image.convert("RGB")))


def test_cmyk_and_grey_jpeg_become_rgb() -> None:
    for mode in ("CMYK", "L"):
        assert decode_image(encoded(Image.new(mode, (8, 8)), "JPEG"), MAX_PIXELS).mode == "RGB"
    white = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), MAX_PIXELS)
    assert np.asarray(white).min() >= 250


def test_sixteen_bit_grey_keeps_its_upper_eight_bits() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "PNG"), MAX_PIXELS))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_transparency_lies_over_white(image_format: str) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    decoded = decode_image(encoded(image, image_format, **options), MAX_PIXELS)
    assert (decoded.getpixel((0, 0)), decoded.getpixel((1, 0))) == ((255, 0, 0), (255, 255, 255))


def test_palette_and_colour_key_transparency_lie_over_white() -> None:
    palette = Image.new("P", (1, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for transparency in (0, bytes([0, 255])):
        data = encoded(palette, "PNG", transparency=transparency)
        assert decode_image(data, MAX_PIXELS).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(encoded(Image.new("RGB", (1, 1)), "PNG", transparency=(0, 0, 0)), MAX_PIXELS).getpixel(
        (0, 0)
    ) == (255, 255, 255)


@pytest.mark.parametrize("image_format", FORMATS)
def test_exif_orientation_is_applied(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter turn
    assert decode_image(encoded(picture(), image_format, exif=exif), MAX_PIXELS).size == (30, 40)


def test_broken_metadata_is_ignored() -> None:
    for exif in (b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40):
        assert decode_image(encoded(picture(), "JPEG", exif=exif), MAX_PIXELS).size == (40, 30)
    assert decode_image(encoded(picture(), "JPEG", icc_profile=b"no profile" * 50), MAX_PIXELS).size == (40, 30)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_image_is_a_finding(image_format: str) -> None:
    data = encoded(picture(200, 200), image_format)
    assert reason(data[: len(data) // 2]) == "image_truncated"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_pixel_cap_is_exact(image_format: str) -> None:
    data = encoded(picture(40, 30), image_format)
    assert decode_image(data, 1200).size == (40, 30)
    assert reason(data, 1199) == "image_too_large"


@pytest.mark.parametrize("side", [20_000, 60_000, 2**31 - 1])
def test_a_giant_header_costs_no_memory(side: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(png_with_header(side, side), 50_000_000) in ("image_too_large", "image_undecodable")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_giant_webp_canvas_is_not_decoded() -> None:
    data = bytearray(encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP"))
    place = data.index(b"VP8X") + 12
    data[place : place + 6] = (16382).to_bytes(3, "little") * 2
    assert reason(bytes(data)) == "image_too_large"


def test_a_metadata_bomb_does_not_explode() -> None:
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"A" * 80_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = encoded(picture(), "PNG")
    after_header = 8 + 25
    holds(data[:after_header] + bomb + data[after_header:])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF"])
def test_other_image_formats_are_named(image_format: str) -> None:
    with pytest.raises(ImageProblem, match=image_format) as caught:
        decode(encoded(picture(), image_format), max_pixels=MAX_PIXELS)
    assert caught.value.reason == "image_format"


def test_text_is_no_image() -> None:
    assert reason(b"  <svg xmlns='http://www.w3.org/2000/svg'/>") == "image_format"
    assert reason(b"<html>404</html>") == "image_format"
    for junk in (b"", b"\0", b"404", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "):
        assert reason(junk) in ("image_undecodable", "image_truncated")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
@pytest.mark.parametrize("image_format", FORMATS)
def test_extreme_sizes_decode(image_format: str, size: tuple[int, int]) -> None:
    image = decode_image(encoded(Image.new("RGB", size, (10, 200, 30)), image_format), MAX_PIXELS)
    assert image.size == size
    assert 0 <= dhash(image) < 2**64


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "MPO"])
def test_of_several_frames_the_first_is_used_and_a_note_made(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    second = Image.new("RGB", (40, 30), "black")
    data = encoded(picture(), image_format, save_all=True, append_images=[second], **options)
    decoded = decode(data, max_pixels=MAX_PIXELS)
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(picture()).astype(int)).mean() < 6
    extension = {"PNG": "png", "WEBP": "webp", "MPO": "jpg"}[image_format]
    assert [note.reason for note in decoded.notes(extension)] == ["image_animated"]


def test_content_that_belies_its_extension_is_noted() -> None:
    decoded = decode(encoded(picture(), "PNG"), max_pixels=MAX_PIXELS)
    assert [note.reason for note in decoded.notes("jpg")] == ["image_format"]
    assert decoded.notes("PNG") == []


BASES = [
    encoded(picture(), "JPEG"),
    encoded(picture(), "JPEG", progressive=True, exif=Image.Exif()),
    encoded(picture().convert("CMYK"), "JPEG"),
    encoded(picture(), "PNG"),
    encoded(picture().convert("P"), "PNG", transparency=3),
    encoded(picture(), "PNG", save_all=True, append_images=[picture(seed=1)]),
    encoded(picture(), "WEBP"),
    encoded(picture().convert("RGBA"), "WEBP", lossless=True),
    encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=1)]),
    encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)]),
]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 0.9999), st.sampled_from(["set", "cut", "insert", "repeat"]), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400)
@given(base=st.sampled_from(BASES), edits=EDITS)
def test_damaged_bytes_decode_or_give_a_reason(base: bytes, edits: list[tuple[float, str, bytes]]) -> None:
    data = bytearray(base)
    for where, kind, value in edits:
        at = int(where * len(data))
        if kind == "set":
            data[at : at + len(value)] = value
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = value
        else:
            data[at:at] = data[at : at + 40 * len(value)]
    holds(bytes(data))


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x50\0\0\0WEBP"])
)
def test_arbitrary_bytes_decode_or_give_a_reason(data: bytes, magic: bytes) -> None:
    holds(magic + data)


def holds(data: bytes) -> None:
    try:
        decoded = decode(data, max_pixels=MAX_PIXELS)
    except ImageProblem as problem:
        found = problem.reason
    else:
        assert decoded.image.mode == "RGB"
        assert decoded.image.width * decoded.image.height <= MAX_PIXELS
        assert decoded.format in FORMATS
        found = next(iter(decoded.notes("jpg")), ImageProblem("image_format", "")).reason
    assert found in REASONS


def test_hostile_metadata_writes_no_warning_from_any_thread_and_leaves_the_filters_alone() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda _: decode_image(data, MAX_PIXELS).size, range(200)))
    assert set(sizes) == {(40, 30)}
    assert list(warnings.filters) == before


def test_dhash_agrees_with_its_definition() -> None:
    image = picture(73, 41)
    cells = image.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    bits = [cells.getpixel((x + 1, y)) > cells.getpixel((x, y)) for y in range(8) for x in range(8)]
    assert dhash(image) == int("".join("1" if bit else "0" for bit in bits), 2)


def test_dhash_is_near_for_a_copy_and_far_for_another_picture() -> None:
    image = picture(200, 150)
    copy = decode_image(encoded(image.resize((120, 90)), "JPEG", quality=60), MAX_PIXELS)
    assert (dhash(image) ^ dhash(copy)).bit_count() <= 4
    assert (dhash(image) ^ dhash(picture(200, 150, seed=1))).bit_count() >= 15
