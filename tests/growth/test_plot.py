"""The picture shows every matrix, each coordinate in its block."""

import sys

import numpy as np
import pytest
from torch import nn

from phiopt.growth import GrowthMap
from phiopt.growth.plot import blocks


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
