"""The steps of composition, one by one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.compose.background import draw_background, fractal_noise, photograph_piece
from demo.compose.camera import photograph
from demo.compose.layers import Layers
from demo.compose.pack import Pack, Split, Sprite
from demo.compose.pasting import footprint, paste
from demo.compose.sticker import masquerade, warp


def half_red_half_blue() -> Image.Image:
    image = Image.new("RGBA", (80, 40), (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (40, 0, 80, 40))
    return image


def red_is_left(image: Image.Image) -> bool:
    pixels = np.asarray(image, np.float64)
    weight = pixels[..., 3] / 255
    columns = np.arange(image.width)[None, :]
    red, blue = (pixels[..., channel] * weight for channel in (0, 2))
    return bool((red * columns).sum() / red.sum() < (blue * columns).sum() / blue.sum())


@pytest.mark.parametrize(("mirrors", "sides"), [(False, {True}), (True, {True, False})])
def test_signs_are_never_mirrored(mirrors: bool, sides: set[bool]) -> None:
    sprite = Sprite(half_red_half_blue(), 0, "test", rotates=False, mirrors=mirrors)
    rng = np.random.default_rng(0)
    assert {red_is_left(warp(rng, sprite, 60)) for _ in range(40)} == sides


def test_only_what_may_rotate_turns_far() -> None:
    rng = np.random.default_rng(0)
    upright = Sprite(half_red_half_blue(), 0, "test", rotates=False, mirrors=False)
    turning = Sprite(half_red_half_blue(), 0, "test", rotates=True, mirrors=False)

    def flipped(sprite: Sprite) -> int:
        return sum(not red_is_left(warp(rng, sprite, 60)) for _ in range(60))

    assert flipped(upright) == 0
    assert 5 < flipped(turning) < 40


@pytest.mark.parametrize("length", [8, 60, 200])
def test_warp_reaches_the_wanted_length(length: int) -> None:
    rng = np.random.default_rng(1)
    sprite = Sprite(half_red_half_blue(), 0, "test", rotates=False, mirrors=True)
    sizes = [max(warp(rng, sprite, length).size) for _ in range(50)]
    assert 0.85 * length < np.median(sizes) < 1.35 * length + 3


def test_masquerade_keeps_the_shape(pack: Path) -> None:
    opened = Pack.open(pack, Split.TRAIN)
    rng = np.random.default_rng(0)
    sprite = opened.pick_sprite(rng, 0)
    filled = masquerade(rng, opened, sprite.image)
    assert np.array_equal(filled.getchannel("A"), sprite.image.getchannel("A"))
    assert not np.array_equal(np.asarray(filled)[..., :3], np.asarray(sprite.image)[..., :3])


def test_backgrounds_of_every_kind_are_in_range(pack: Path) -> None:
    opened = Pack.open(pack, Split.TRAIN)
    rng = np.random.default_rng(0)
    for _ in range(60):
        canvas = draw_background(rng, opened, 70, 50)
        assert canvas.shape == (50, 70, 3)
        assert canvas.dtype == np.float32
        assert np.isfinite(canvas).all()
        assert canvas.min() >= 0
        assert canvas.max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (200, 10), (7, 300)])
def test_pieces_fit_any_proportion(pack: Path, size: tuple[int, int]) -> None:
    opened = Pack.open(pack, Split.TRAIN)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert photograph_piece(rng, opened, *size, 0.3, 1.0).size == size


def test_noise_spans_zero_to_one() -> None:
    noise = fractal_noise(np.random.default_rng(0), 40, 30)
    assert noise.shape == (30, 40)
    assert noise.min() == 0
    assert noise.max() == pytest.approx(1, abs=1e-4)


def test_the_camera_keeps_the_size_and_varies() -> None:
    canvas = np.full((40, 60, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    shots = [photograph(rng, canvas) for _ in range(20)]
    assert all(shot.shape == (40, 60, 3) and shot.dtype == np.uint8 for shot in shots)
    assert np.ptp([shot.mean() for shot in shots]) > 10
    assert np.array_equal(canvas, np.full_like(canvas, 0.5))


def test_pasting_changes_what_it_covers_and_clips_at_the_border() -> None:
    rng = np.random.default_rng(0)
    canvas = np.zeros((50, 50, 3), np.float32)
    place = paste(rng, canvas, Image.new("RGBA", (20, 10), (255, 255, 255, 255)), 40, -4)
    assert place is not None
    assert (place.rows, place.columns) == (slice(0, 6), slice(40, 50))
    assert place.opaque.all()
    assert (canvas[:6, 40:] > 0.1).all()
    assert not canvas[6:].any()
    assert not canvas[:, :40].any()


@pytest.mark.parametrize("corner", [(48, 0), (-18, 0), (0, 49), (90, 90)])
def test_next_to_nothing_is_not_pasted(corner: tuple[int, int]) -> None:
    canvas = np.zeros((50, 50, 3), np.float32)
    image = Image.new("RGBA", (20, 20), (255, 255, 255, 255))
    assert footprint(image, *corner, canvas) is None
    assert paste(np.random.default_rng(0), canvas, image, *corner) is None
    assert not canvas.any()


def test_layers_refuse_to_hide_an_object() -> None:
    layers = Layers(40, 40)
    canvas = np.zeros((40, 40, 3), np.float32)
    whole = Image.new("RGBA", (20, 20), (0, 0, 0, 255))
    back = footprint(whole, 0, 0, canvas)
    half = footprint(whole, 11, 0, canvas)
    most = footprint(whole, 4, 0, canvas)
    assert back is not None
    assert half is not None
    assert most is not None
    layers.add(back, 1, 400, "back")
    assert not layers.admits(most)
    assert layers.admits(half)
    layers.cover(half)
    layers.add(half, 2, 400, "front")
    behind, front = layers.visible_objects()
    assert behind.visible == pytest.approx(11 / 20)
    assert front.visible == 1
    # a second cover would add up to more than the limit
    assert not layers.admits(back)
