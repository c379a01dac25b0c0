"""Images as people hold them: one photograph, one result; what could be two things is refused with the way out."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image

from partbox.api.images import ImageInputError, check_image, pixels_of, said_channels

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.mark.parametrize(
    "image",
    [
        PICTURE,
        PIXELS,
        np.asfortranarray(PIXELS),
        PIXELS.astype(np.float32) / 255,
        PIXELS / 255,
        (PIXELS / 255).astype(np.float16),
        TENSOR,
        TENSOR.float() / 255,
        TENSOR.double() / 255,
        TENSOR.half() / 255,
        (PIXELS / 255).astype(">f4"),
        torch.from_numpy(np.ascontiguousarray(PIXELS.transpose(1, 0, 2))).permute(2, 1, 0),
        (TENSOR.float() / 255).requires_grad_(True),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'dtype', '')}",
)
def test_however_a_photograph_is_held_its_pixels_are_the_same(image):
    check_image(image)
    found = pixels_of(image)
    assert found.dtype == np.uint8
    assert np.array_equal(found, PIXELS)


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "jpg"])
def test_a_file_is_read_as_detectron2_reads_it(tmp_path, ending):
    path = tmp_path / f"photograph.{ending}"
    PICTURE.save(path, **({"lossless": True} if ending == "webp" else {}))
    expected = read_image(str(path), "RGB")
    for image in (path, str(path), Image.open(path)):
        check_image(image)
        assert np.array_equal(pixels_of(image), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_photographs_are_turned_as_their_camera_says(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    PICTURE.save(path, exif=exif)
    expected = read_image(str(path), "RGB")
    assert expected.shape == ((9, 6, 3) if orientation >= 5 else (6, 9, 3))
    assert np.array_equal(pixels_of(path), expected)
    assert np.array_equal(pixels_of(Image.open(path)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "RGBX", "PA"])
def test_other_modes_of_pillow_become_rgb(mode):
    image = PICTURE.convert("P").convert("PA") if mode == "PA" else PICTURE.convert(mode)
    assert np.array_equal(pixels_of(image), np.asarray(image.convert("RGB")))


def transparent(mode: str) -> Image.Image:
    image = PICTURE.convert("RGBA")
    image.putpixel((3, 2), (10, 20, 30, 254))
    return image.convert(mode)


def palette_with_transparency() -> Image.Image:
    image = PICTURE.convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def palette_of_four_channels() -> Image.Image:
    image = PICTURE.convert("P")
    colours = np.array(image.getpalette("RGBA")).reshape(-1, 4)
    colours[:, 3] = 100
    image.putpalette(colours.flatten().tolist(), "RGBA")
    return image


@pytest.mark.parametrize(
    "image", [transparent("RGBA"), transparent("LA"), palette_with_transparency(), palette_of_four_channels()]
)
def test_transparent_pixels_of_a_pil_image_could_be_any_colour(image):
    with pytest.raises(ImageInputError, match=r"transparent pixels.*alpha_composite"):
        pixels_of(image)
    mended = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    assert pixels_of(mended).shape == PIXELS.shape


def test_a_transparent_file_is_read_as_in_training_and_the_log_says_so(tmp_path, caplog):
    path = tmp_path / "transparent.png"
    transparent("RGBA").save(path)
    with caplog.at_level(logging.WARNING, "partbox"):
        assert np.array_equal(pixels_of(path), read_image(str(path), "RGB"))
    assert "transparent.png has transparent pixels" in caplog.text
    caplog.clear()
    PICTURE.convert("RGBA").save(path)
    pixels_of(path)
    assert not caplog.text


ONE = np.ones((4, 5, 3))
REFUSED = {
    "nothing": (None, "type NoneType is no image"),
    "bytes": (b"...", "type bytes is no image"),
    "number": (3, "type int is no image"),
    "other channels": (PIXELS[:, :, :2], r"\(6, 9, 2\) is no image"),
    "grey array": (PIXELS[:, :, 0], "one channel.*numpy.repeat"),
    "grey array with its axis": (PIXELS[:, :, :1], "one channel.*numpy.repeat"),
    "four channels": (np.zeros((6, 9, 4), np.uint8), r"four channels.*image\[:, :, :3\]"),
    "channels first": (PIXELS.transpose(2, 0, 1), r"channels first: give image.transpose\(1, 2, 0\)"),
    "batch": (PIXELS[None], "is a batch: give a list"),
    "empty array": (PIXELS[:0], "is empty"),
    "three rows": (PIXELS[:3], "could have its channels first or last"),
    "integers": (PIXELS.astype(np.int64), "int64 could be anything"),
    "truths": (PIXELS > 100, "bool could be anything"),
    "complex": (PIXELS.astype(complex), "complex128 could be anything"),
    "floats in 0..255": (PIXELS.astype(np.float32), "values up to 2[45][0-9].*divide 0..255 by 255"),
    "just above 1": (ONE * 1.001, r"values up to 1\.001.*clip"),
    "normalised": (ONE * 0.5 - 1, "values from -0.5 to -0.5.*mean"),
    "not a number": (np.where(PIXELS > 200, np.nan, 0.5), "not finite"),
    "infinite": (ONE * np.inf, "not finite"),
    "grey tensor": (TENSOR[0], "one channel.*expand"),
    "grey tensor with its axis": (TENSOR[:1], "one channel.*expand"),
    "four channels of a tensor": (torch.zeros(4, 6, 9), r"four channels.*image\[:3\]"),
    "channels last": (torch.from_numpy(PIXELS), r"channels last: give image.permute\(2, 0, 1\)"),
    "batch of tensors": (TENSOR[None], "is a batch: give a list"),
    "three columns": (TENSOR[:, :, :3], "could have its channels first or last"),
    "empty tensor": (TENSOR[:, :, :0], "is empty"),
    "half precision without digits": (TENSOR.bfloat16() / 255, "bfloat16 could be anything"),
    "tensor of integers": (TENSOR.long(), "int64 could be anything"),
    "tensor beyond 1": (TENSOR.float(), "divide 0..255 by 255"),
    "tensor below 0": (TENSOR.float() / 255 - 0.5, "mean"),
    "tensor not finite": (TENSOR.float() * torch.nan, "not finite"),
    "sixteen bits": (Image.new("I;16", (4, 4)), "mode I;16, which do not fit 8 bits"),
    "floats of pillow": (Image.new("F", (4, 4)), "mode F, which do not fit 8 bits"),
    "colours of printing": (Image.new("LAB", (4, 4)), "mode LAB: convert it to RGB yourself$"),
    "masked array": (np.ma.masked_greater(PIXELS, 200), r"masked array.*image\.filled"),
    "sparse tensor": (TENSOR.to_sparse(), "sparse tensor"),
    "tensor without values": (torch.zeros(3, 6, 9, device="meta"), "without values"),
    "empty picture": (Image.new("RGB", (0, 4)), "0 x 4 pixels is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_mean_two_things_is_refused(name):
    image, words = REFUSED[name]
    for ask in (pixels_of, check_image):
        with pytest.raises(ImageInputError, match=words):
            ask(image)


def test_files_that_cannot_be_read_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    PICTURE.resize((200, 200)).save(whole)
    cut, text, deep, moving = (tmp_path / name for name in ("cut.png", "text.png", "deep.png", "moving.gif"))
    cut.write_bytes(whole.read_bytes()[:-2000])
    text.write_text("no picture")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(deep)
    PICTURE.save(moving)
    for path, words in {
        tmp_path: "is a folder: give a list of its files",
        tmp_path / "nowhere.png": "does not exist",
        cut: "cannot be read",
        text: "is none of JPEG, PNG",
        deep: "mode I;16",
        moving: "is none of JPEG, PNG",
    }.items():
        with pytest.raises(ImageInputError, match=words) as caught:
            pixels_of(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ImageInputError, match=r"https://example.com/a.png does not exist"):
        pixels_of("https://example.com/a.png")
    with pytest.raises(ImageInputError, match="a PIL image cannot be read"):
        pixels_of(Image.open(cut))
    check_image(cut)  # only the header is read


def test_the_order_of_channels_is_said_not_guessed(tmp_path):
    reversed_channels = np.ascontiguousarray(PIXELS[:, :, ::-1])
    assert np.array_equal(pixels_of(reversed_channels, channels="bgr"), PIXELS)
    assert np.array_equal(pixels_of(TENSOR.flip(0), channels="bgr"), PIXELS)
    assert np.array_equal(pixels_of(TENSOR.flip(0).float() / 255, channels="bgr"), PIXELS)
    PICTURE.save(tmp_path / "a.png")
    for image in (PICTURE, tmp_path / "a.png"):
        for ask in (pixels_of, check_image):
            with pytest.raises(ImageInputError, match="know their channels"):
                ask(image, channels="bgr")
    with pytest.raises(ImageInputError, match="'rgb' or 'bgr', not 'BGR'"):
        pixels_of(PIXELS, channels="BGR")


def test_floats_that_are_not_8_bits_are_not_rounded():
    image = np.clip(PIXELS / 255 + RNG.uniform(-0.03, 0.03, PIXELS.shape), 0, 1).astype(np.float32)
    found = pixels_of(image)
    assert found.dtype == np.float32
    assert np.array_equal(found, image)
    one_pixel = (PIXELS / 255).astype(np.float32)
    one_pixel[3, 4, 1] = 100.3 / 255
    assert pixels_of(one_pixel).dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 4), (4, 3)])
def test_an_image_of_a_pixel_or_a_line_is_an_image(tmp_path, shape):
    pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    for image in (Image.fromarray(pixels), tmp_path / "small.png"):
        assert np.array_equal(pixels_of(image), pixels)
    if shape[0] != 3:  # three rows of an array could be its channels
        assert np.array_equal(pixels_of(pixels), pixels)
    if shape[1] != 3:
        assert np.array_equal(pixels_of(torch.from_numpy(pixels).permute(2, 0, 1)), pixels)


def test_arrays_whose_order_of_channels_nobody_says_are_read_as_rgb_with_a_warning(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    for image in (PIXELS, TENSOR):
        with pytest.warns(UserWarning, match=r"read as RGB; those of OpenCV are BGR and need channels='bgr'") as caught:
            assert said_channels([PICTURE, image], None, callers=0) == "rgb"
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert said_channels([PICTURE, tmp_path / "a.png"], None, callers=0) == "rgb"
        assert [said_channels([PIXELS], order, callers=0) for order in ("rgb", "bgr")] == ["rgb", "bgr"]
