"""The picture shows every matrix, each coordinate in its block."""

import sys

import numpy as np
import pytest
from torch import nn

from phiopt.growth import GrowthMap
from phiopt.growth.plot import blocks, layer_counts


def growth(**options):
    small = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    large = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))
    return GrowthMap.between(small, large, **options)


def test_blocks_tell_rows_that_make_from_columns_that_read():
    actual = growth(classes=[0, 3, 2]).placements
    np.testing.assert_array_equal(blocks(actual["0.weight"]), [[0] * 4, [0] * 4, [1] * 4])
    expected = [[0, 0, 2], [1, 1, 3], [0, 0, 2], [0, 0, 2]]
    np.testing.assert_array_equal(blocks(actual["2.weight"]), expected)


def test_a_transposed_kernel_reads_along_its_first_axis():
    def net(width):
        return nn.Sequential(nn.Conv2d(1, width, 1), nn.ConvTranspose2d(width, 2, 1))

    actual = GrowthMap.between(net(2), net(3)).placements["1.weight"]
    np.testing.assert_array_equal(blocks(actual), [[0, 0], [0, 0], [2, 2]])


def test_the_figure_has_a_panel_a_matrix_and_is_saved(tmp_path):
    figure = growth().plot(tmp_path / "map.png")
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["0.weight  3×4", "2.weight  4×3"]
    assert (tmp_path / "map.png").stat().st_size > 1000
    (image,) = figure.axes[1].get_images()
    np.testing.assert_array_equal(image.get_array(), blocks(growth().placements["2.weight"]))
    colours = image.cmap(np.arange(4))[:, :3]
    assert (colours == colours[:, :1]).all()  # grey
    assert len({round(float(c[0]), 2) for c in colours}) == 4


def test_a_layer_of_the_students_own_is_shown_as_new():
    def net(*more):
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), *more, nn.Linear(3, 2))

    figure = GrowthMap.between(net(), net(nn.Linear(3, 3), nn.ReLU())).plot()
    pictures = [ax.get_images()[0].get_array() for ax in figure.axes if ax.get_images()]
    assert sum(int((p == 3).all()) for p in pictures) == 1


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.colors", None)
    with pytest.raises(ImportError, match=r"pip install 'phiopt\[experiments\]'"):
        growth().plot()


def test_axes_say_what_they_are():
    ax = growth().plot().axes[0]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("axis 0: outputs", "axis 1: inputs")


def test_the_layers_show_the_share_of_the_teacher(tmp_path):
    figure = growth().plot(tmp_path / "layers.svg", layers=True)
    assert (tmp_path / "layers.svg").stat().st_size > 1000
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "2"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([10 / 15 * 100, 9 / 16 * 100, 5 / 15 * 100, 7 / 16 * 100])


def test_many_layers_are_put_together():
    def net(width, depth):
        block = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
        return nn.Sequential(nn.Sequential(*block), nn.Sequential(*block[:0], nn.Linear(width, 2)))

    counts = layer_counts(GrowthMap.between(net(2, 61), net(3, 61)))
    assert list(counts) == ["0", "1"]
    assert counts["0"] == (61 * 6, 61 * 12)
    few = layer_counts(GrowthMap.between(net(2, 12), net(3, 12)))
    assert list(few) == [*(f"0.{i}.0" for i in range(12)), "1.0"]
