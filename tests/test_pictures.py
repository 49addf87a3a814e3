"""Pictures as they are: every mode keeps its range, what is broken is named, little is opened."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from builders import law
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageOps

from has8.data import FolderImages
from has8.data.listing import SUFFIXES, UNREAD
from has8.data.pictures import FORMATS, read_square
from has8.errors import BadInput

SIDE = 4
VALUES = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(4, 4)


def unit(file, size=SIDE):
    """What a data set gives for the file."""
    return FolderImages([file], [0], size=size)[0][0]


def saved(folder, image, name="1.png", **options):
    image.save(folder / name, **options)
    return folder / name


def mode_of(file):
    with Image.open(file) as image:
        return image.mode


def grey(values):
    return torch.tensor(values, dtype=torch.float64).float().expand(3, *np.shape(values))


# Laws


@law(60)
@given(
    st.lists(st.integers(0, 65535), min_size=16, max_size=16),
    st.sampled_from(["png", "tif", "big-endian tif", "pgm", "32-bit tif", "float tif"]),
)
def test_deep_pictures_keep_every_value(tmp_path_factory, values, kind):
    folder = tmp_path_factory.getbasetemp()
    deep = np.array(values).reshape(4, 4)
    file = folder / f"deep.{kind.split()[-1]}"
    if kind == "big-endian tif":
        file.write_bytes(_big_endian_tiff(deep))
        assert mode_of(file) == "I;16B"
    elif kind == "pgm":
        file.write_bytes(b"P5 4 4 65535\n" + deep.astype(">u2").tobytes())
    elif kind == "32-bit tif":
        Image.fromarray(deep.astype(np.int32)).save(file)
        assert mode_of(file) == "I"
    elif kind == "float tif":
        Image.fromarray((deep / 65535).astype(np.float32)).save(file)
        assert mode_of(file) == "F"
    else:
        Image.fromarray(deep.astype(np.uint16)).save(file)
    assert torch.allclose(unit(file), grey(deep / 65535), atol=1e-7, rtol=0)


@law(60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["RGBA", "LA", "P", "gif", "webp"]))
def test_alpha_is_composited_on_black(tmp_path_factory, seed, kind):
    file = tmp_path_factory.getbasetemp() / f"clear.{kind if kind in ('gif', 'webp') else 'png'}"
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    if kind == "LA":
        pixels[..., 1:3] = pixels[..., :1]
        Image.fromarray(pixels[..., [0, 3]], "LA").save(file)
    elif kind in ("P", "gif"):
        pixels[..., 3] = rng.integers(0, 2, (4, 4)) * 255
        index = np.arange(16, dtype=np.uint8).reshape(4, 4)
        image = Image.fromarray(index, "P")
        image.putpalette(pixels[..., :3].tobytes())
        # One entry of a palette is clear; several alphas stand in a PNG.
        clear = {"transparency": pixels[..., 3].tobytes()}
        if kind == "gif":
            pixels[..., 3], clear = 255, {"transparency": 5}
            pixels[1, 1, 3] = 0
        image.save(file, **clear)
    else:
        image = Image.fromarray(pixels, "RGBA")
        image.save(file, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    expected = torch.from_numpy(colour * alpha / 255).permute(2, 0, 1).float()
    assert torch.allclose(unit(file), expected, atol=0.51 / 255, rtol=0)


@law(120)
@given(
    st.sampled_from(["png", "jpg", "bmp", "tif", "webp", "ppm", "gif", "deep.png", "lzw.tif"]),
    st.floats(0, 1),
)
def test_a_truncated_picture_is_named_or_was_whole(tmp_path_factory, name, share):
    folder = tmp_path_factory.getbasetemp()
    whole = folder / f"whole.{name}"
    if not whole.exists():
        noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = Image.fromarray(noise if "deep" not in name else noise[..., 0].astype(np.uint16))
        image.save(whole, **({"compression": "tiff_lzw"} if "lzw" in name else {}))
    content = whole.read_bytes()
    cut = folder / f"cut.{name}"
    cut.write_bytes(content[: round(share * len(content))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = read_square(cut, 32, "crop")
        except BadInput as error:
            assert cut.name in str(error) and "\n" not in str(error)
        else:
            assert torch.equal(picture, read_square(whole, 32, "crop"))


@law(150)
@given(
    st.sampled_from(["png", "jpg", "bmp", "tif", "webp", "ppm", "gif"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
@example("ppm", [(8.5 / 27, ord("*"))])  # a ValueError of the decoder's
def test_a_mutated_picture_is_a_picture_or_named(tmp_path_factory, name, changes):
    stream = io.BytesIO()
    Image.fromarray(VALUES).save(stream, Image.registered_extensions()[f".{name}"])
    content = bytearray(stream.getvalue())
    for place, value in changes:
        content[int(place * len(content))] = value
    file = tmp_path_factory.getbasetemp() / f"mutated.{name}"
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = read_square(file, SIDE, "crop")
        except BadInput as error:
            assert file.name in str(error)
        else:
            assert picture.shape == (3, SIDE, SIDE)


# Examples


def test_modes_of_eight_bits_are_their_rgb(tmp_path):
    levels = grey(VALUES / 255)
    image = Image.fromarray(VALUES)
    for name in ("1.png", "1.bmp", "1.tif", "1.pgm", "1.gif"):
        assert torch.equal(unit(saved(tmp_path, image, name)), levels), name
    bilevel = Image.fromarray(VALUES > 99)
    assert bilevel.mode == "1"
    assert torch.equal(unit(saved(tmp_path, bilevel, "b.png")), grey((VALUES > 99) * 1.0))
    cmyk = Image.merge("CMYK", [image, image.rotate(90), image.rotate(180), image.rotate(270)])
    expected = torch.from_numpy(np.array(cmyk.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(unit(saved(tmp_path, cmyk, "c.tif")), expected)


def test_a_key_colour_is_clear_in_pictures_of_any_depth(tmp_path):
    for dtype, key in ((np.uint8, 255), (np.uint16, 60000)):
        values = np.full((4, 4), key, dtype)
        values[0] = 17
        file = saved(tmp_path, Image.fromarray(values), transparency=key)
        white = np.iinfo(dtype).max
        assert torch.allclose(unit(file), grey(np.where(values == key, 0, values / white)))


def test_twelve_bits_in_sixteen_stay_where_they_are(tmp_path):
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    picture = unit(saved(tmp_path, Image.fromarray(ramp)), 64)
    assert len(picture[0].unique()) == 4096 and picture.max() == pytest.approx(4095 / 65535)


def test_pictures_of_both_depths_share_a_batch(tmp_path):
    files = [
        saved(tmp_path, Image.fromarray(VALUES), "a.png"),
        saved(tmp_path, Image.fromarray(VALUES.astype(np.uint16) * 257), "b.png"),
    ]
    images, _ = FolderImages(files, [0, 1], size=SIDE).tensors()
    assert torch.allclose(images[0], images[1]) and torch.equal(images[0], unit(files[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(tmp_path, Image.fromarray(VALUES), exif=exif)
    with Image.open(file) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    assert torch.equal(unit(file), grey(upright / 255))


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp"])
@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"MM",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"\0" * 40,
    ],
)
def test_a_broken_exif_block_is_ignored(tmp_path, name, block):
    image = Image.fromarray(np.kron(VALUES, np.ones((8, 8), np.uint8)))
    plain = unit(saved(tmp_path, image, f"plain{name}"), 32)
    file = saved(tmp_path, image, name, exif=b"Exif\0\0" + block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(unit(file, 32), plain)


def test_every_ending_of_the_formats_is_an_image():
    Image.init()
    known = {end for end, name in Image.registered_extensions().items() if name in FORMATS}
    assert known <= SUFFIXES and not SUFFIXES & UNREAD


# Refusals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32(1.5), "from 1.5 to 1.5, expected 0 to 1"),
        (np.float32(-0.1), "expected 0 to 1"),
        (np.float32("nan"), "expected 0 to 1"),
        (np.float32("inf"), "expected 0 to 1"),
        (np.int32(65536), "from 65536 to 65536, expected 0 to 65535"),
        (np.int32(-1), "expected 0 to 65535"),
    ],
)
def test_values_without_a_range_are_refused(tmp_path, values, message):
    file = saved(tmp_path, Image.fromarray(np.full((4, 4), values)), "1.tif")
    with pytest.raises(BadInput, match=rf"1\.tif cannot be read as an image .*{message}"):
        read_square(file, SIDE, "crop")


def test_only_formats_that_people_train_on_are_opened(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    file = tmp_path / "1.png"
    Image.new("RGB", (4, 4)).save(file, "EPS")
    with pytest.raises(BadInput, match="none of PNG, JPEG, BMP, TIFF, WEBP, PPM, GIF"):
        read_square(file, SIDE, "crop")
    assert not started
    for name in ("TGA", "ICO", "PCX", "JPEG2000", "PDF"):
        Image.new("RGB", (16, 16)).save(file, name)
        with pytest.raises(BadInput, match="none of PNG"):
            read_square(file, SIDE, "crop")


@pytest.mark.parametrize("sides", [(100_000, 100_000), (9_000, 9_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, sides, monkeypatch):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0)
    file = tmp_path / "1.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    monkeypatch.setattr(Image.Image, "load", lambda *a: pytest.fail("decoded"))
    with pytest.raises(BadInput, match=r"1\.png has more than 50,000,000 pixels"):
        read_square(file, SIDE, "crop")


def test_a_file_of_too_many_bytes_is_refused(tmp_path):
    file = saved(tmp_path, Image.fromarray(VALUES), "1.webp")
    os.truncate(file, 1 << 40)  # takes no room on the disk
    with pytest.raises(BadInput, match=r"1\.webp has 1,099,511,627,776 bytes"):
        read_square(file, SIDE, "crop")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    file = tmp_path / "1.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=r"1\.png is no ordinary file"):
        read_square(file, SIDE, "crop")


def _big_endian_tiff(values):
    """A TIFF of 16-bit greys with the high byte first, which Pillow reads but does not write."""
    height, width = values.shape
    entries = [
        (256, 3, 1, width << 16),
        (257, 3, 1, height << 16),
        (258, 3, 1, 16 << 16),
        (259, 3, 1, 1 << 16),
        (262, 3, 1, 1 << 16),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4),
        (277, 3, 1, 1 << 16),
        (278, 3, 1, height << 16),
        (279, 4, 1, 2 * values.size),
    ]
    table = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    return (
        b"MM\0*\0\0\0\x08"
        + struct.pack(">H", 9)
        + table
        + b"\0" * 4
        + values.astype(">u2").tobytes()
    )
