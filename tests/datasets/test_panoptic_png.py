import numpy as np

from mmdet_sag.datasets.panoptic_png import id_to_rgb, rgb_to_id


def test_a_colour_is_a_number_of_three_digits():
    np.testing.assert_array_equal(
        id_to_rgb(np.array([[0, 255, 256, 8345037]]))[0], [[0] * 3, [255, 0, 0], [0, 1, 0], [205, 85, 127]]
    )


def test_ids_survive_the_way_through_colours():
    ids = np.random.default_rng(0).integers(0, 256**3, (20, 30))
    np.testing.assert_array_equal(rgb_to_id(id_to_rgb(ids)), ids)
