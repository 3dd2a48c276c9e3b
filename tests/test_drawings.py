"""Diagrams: what the drawings show, in both languages, and that nothing is cut or too small."""

import functools
import re
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Text

from clora_lab.lab.figures import style
from clora_lab.slides import drawings

TOY = [
    ("flatten", "Flatten", "784"),
    ("dense", "Dense", "256"),
    ("dense_1", "Dense", "128"),
    ("dense_2", "Dense", "10"),
]
DEEP = [(f"block{i // 4 + 1}_conv{i % 4 + 1}", "Conv2D", f"{32 - i} × {32 - i} × 512") for i in range(23)]
SLIDE_18 = {"layers": DEEP, "wrapped": [DEEP[0][0], DEEP[22][0]]}
DRAWINGS = {
    "slide_05": drawings.fine_tuning,
    "slide_06": drawings.lora,
    "slide_08": drawings.wds_stages,
    "slide_13": functools.partial(drawings.wds_stages, noise=True),
    "slide_18": drawings.layer_stack,
}
HANGUL = re.compile("[가-힣]")


def draw(key, **options):
    return DRAWINGS[key](**(SLIDE_18 if key == "slide_18" else {}), **options)


@pytest.fixture(scope="module")
def gallery():
    return {key: draw(key) for key in DRAWINGS}


@pytest.fixture
def korean(monkeypatch):
    """Korean labels without a Korean font, for the words and not the looks."""
    monkeypatch.setattr(style, "hangul_font", lambda: "DejaVu Sans")


def words(fig):
    return [text.get_text() for text in fig.findobj(Text) if text.get_text().strip()]


def boxes(fig, fill):
    (ax,) = fig.axes
    shapes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return [shape for shape in shapes if to_hex(shape.get_facecolor(), keep_alpha=True) == fill + "ff"]


def pairs(fig):
    return sum(isinstance(patch, Polygon) for patch in fig.axes[0].patches) / 2


@pytest.mark.parametrize("key", DRAWINGS)
def test_text_is_large_enough_and_nothing_is_cut(gallery, key):
    fig = gallery[key]
    fig.draw_without_rendering()
    assert fig.get_size_inches()[0] == 6.4
    width, height = fig.get_size_inches() * fig.dpi
    for text in fig.findobj(Text):
        if text.get_text().strip():
            assert text.get_fontsize() >= 9, text
    for artist in [*fig.texts, *fig.axes[0].texts, *fig.axes[0].patches, *fig.artists]:
        box = artist.get_window_extent()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, artist


@pytest.mark.parametrize("key", DRAWINGS)
def test_no_text_runs_into_another(gallery, key):
    fig = gallery[key]
    fig.draw_without_rendering()
    seen = [text for text in fig.axes[0].texts if text.get_text().strip()]
    extents = [(text.get_text(), text.get_window_extent().padded(-1)) for text in seen]
    for index, (one, box) in enumerate(extents):
        for other, its_box in extents[:index]:
            assert not box.overlaps(its_box), (one, other)


@pytest.mark.parametrize("key", DRAWINGS)
def test_files_repeat_and_carry_the_description(tmp_path, gallery, key):
    first = [path.read_bytes() for path in style.save(gallery[key], tmp_path / "a")]
    second = [path.read_bytes() for path in style.save(draw(key), tmp_path / "b")]
    assert first == second
    assert style.alt_text(gallery[key])[:20].encode() in first[1]


def test_fine_tuning_adds_the_update(gallery):
    seen = words(gallery["slide_05"])
    assert {"W", "ΔW", "W′", "+", "=", "input x", "output h"} <= set(seen)
    assert "h = W·x + ΔW·x = W′·x" in seen and pairs(gallery["slide_05"]) == 0


def test_lora_freezes_w_beside_one_pair(gallery):
    seen = words(gallery["slide_06"])
    assert {"$W_A$", "$W_B$", "W", "pretrained,\nfrozen"} <= set(seen)
    assert pairs(gallery["slide_06"]) == 1
    assert any(box.get_hatch() for box in boxes(gallery["slide_06"], drawings.W_FILL))


@pytest.mark.parametrize("noise", [False, True])
def test_w_and_its_bias_shrink_with_the_decay(noise):
    fig = drawings.wds_stages(noise=noise)
    key, *drawn = sorted(boxes(fig, drawings.W_FILL), key=lambda box: box.get_y())
    weights = [box.get_width() for box in drawn if box.get_width() == box.get_height()]
    biases = [box.get_width() for box in drawn if box.get_width() != box.get_height()]
    assert len(weights) == len(biases) == 3  # none of either at d = 0
    for widths in (weights, biases):
        np.testing.assert_allclose(np.sort(widths)[::-1] / max(widths), [1, 0.66, 0.33])
    assert pairs(fig) == 4
    assert {"d = 1", "d = 0.66", "d = 0.33", "d = 0"} <= set(words(fig))


def test_noise_fills_the_space_and_is_gone_at_both_ends(gallery):
    plain, noisy = gallery["slide_08"], gallery["slide_13"]
    meshes = [mesh for mesh in noisy.axes[0].collections if isinstance(mesh, QuadMesh)]
    assert len(meshes) == 3  # d = 0.66, d = 0.33 and the key
    corners = [mesh.get_coordinates()[0, 0, 0] for mesh in meshes[:2]]
    np.testing.assert_allclose(np.floor(np.array(corners) / 1.6), [1, 2])  # second and third stage
    assert not plain.axes[0].collections
    assert len(boxes(noisy, drawings.BIAS_FILL)) == 4 + 1  # C at each stage, and in the key
    assert "C" in words(noisy) and "C" not in words(plain)


@pytest.mark.parametrize(("layers", "wrapped"), [(TOY, ["dense", "dense_1"]), (DEEP, ["block1_conv1"])])
def test_layer_stack_marks_the_wrapped_ones(layers, wrapped):
    fig = drawings.layer_stack(layers, wrapped, title="Toy network, Fashion-MNIST")
    assert fig.get_suptitle().strip() == "Toy network, Fashion-MNIST"
    bold = [text.get_text() for text in fig.axes[0].texts if text.get_weight() == "bold"]
    assert bold == wrapped and pairs(fig) == len(wrapped)
    assert {part for layer in layers for part in layer} <= set(words(fig))
    assert len(boxes(fig, drawings.PAIR_FILL)) == len(wrapped) + 1  # and one in the key
    assert f"{len(wrapped)} of {len(layers)} layers" in " ".join(words(fig))
    assert f"{len(layers)} layers from {layers[0][0]} to {layers[-1][0]}" in fig.alt_text


def test_layer_stack_shortens_names_that_do_not_fit():
    long = [(f"token_and_position_embedding_{i}", "Embedding", "128 × 128") for i in range(12)]
    seen = words(drawings.layer_stack(long, []))
    assert "token_and_posit…" in seen and "none" in drawings.layer_stack(long, []).alt_text


@pytest.mark.parametrize(
    ("layers", "wrapped", "message"),
    [
        ([], [], r"`layers` must hold at least one \(name, kind, shape text\). Received: \[\]"),
        ([("dense", "Dense")], [], r"Received: \('dense', 'Dense'\)"),
        (TOY, ["dense_9"], r"`wrapped` must name layers. Received: \['dense_9'\].*'dense_1'"),
    ],
)
def test_layer_stack_refuses(layers, wrapped, message):
    with pytest.raises(ValueError, match=message):
        drawings.layer_stack(layers, wrapped)


# --- languages ----------------------------------------------------------------------------------


def test_both_languages_have_the_same_labels():
    english, korean = drawings.LABELS["en"], drawings.LABELS["ko"]
    assert english.keys() == korean.keys()
    assert not any(HANGUL.search(label) for label in english.values())
    assert all(HANGUL.search(label) for label in korean.values())
    for key, label in english.items():
        fields = re.findall(r"{\w+}|\$\w+\$", label)
        assert sorted(fields) == sorted(re.findall(r"{\w+}|\$\w+\$", korean[key]))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("key", DRAWINGS)
def test_korean_labels_are_drawn(gallery, korean, key):
    seen = words(draw(key, lang="ko"))
    assert any(HANGUL.search(word) for word in seen)
    assert len(seen) == len(words(gallery[key]))


@pytest.mark.parametrize("key", DRAWINGS)
def test_without_a_hangul_font_english_and_a_warning(monkeypatch, gallery, key):
    monkeypatch.setattr(style, "hangul_font", lambda: None)
    with pytest.warns(UserWarning, match="No font with Hangul.*NanumGothic.*fonts-nanum") as caught:
        fig = draw(key, lang="ko")
    assert words(fig) == words(gallery[key])
    assert caught[0].filename == __file__


def test_an_installed_hangul_font_is_found(monkeypatch):
    manager = font_manager.fontManager
    found = [font_manager.FontEntry(name="Malgun Gothic"), font_manager.FontEntry(name="UnDotum")]
    monkeypatch.setattr(manager, "ttflist", [*plain_fonts(), *found])
    assert style.hangul_font() == "Malgun Gothic"


def test_fonts_installed_since_the_list_was_made_are_looked_at(monkeypatch, tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    added = []

    def add(path):
        if path == str(broken):
            raise RuntimeError("not a font")
        added.append(path)
        manager.ttflist.append(font_manager.FontEntry(fname=path, name="NanumGothic"))

    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", plain_fonts())
    monkeypatch.setattr(manager, "addfont", add)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken)])
    assert style.hangul_font() is None
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken), "new.ttf"])
    assert style.hangul_font() == "NanumGothic" and added == ["new.ttf"]


def plain_fonts():
    fonts = font_manager.fontManager.ttflist
    return [font for font in fonts if font.name not in style.HANGUL_FONTS]


def test_an_unknown_language_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"`lang` must be one of \['en', 'ko'\]. Received: 'fr'"):
            drawings.lora(lang="fr")
