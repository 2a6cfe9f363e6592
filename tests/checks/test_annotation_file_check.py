import pytest

from mmdet_sag.checks.annotation_file_check import AnnotationFileCheck
from mmdet_sag.checks.problem_tally import ProblemTally

CLASSES = ('cat', 'dog')


def test_the_parts_of_a_file_are_checked_in_turn(data):
    data.content['categories'].append(dict(id=3, name='bird'))
    data.content['images'][0]['width'] = 0
    data.content['annotations'][2]['bbox'] = [1, 1, 0, 0]
    data.content['annotations'] += [dict(data.content['annotations'][2]), 'text']
    tally = ProblemTally()
    check = AnnotationFileCheck(data.content, CLASSES, tally)
    assert check.check_categories() == [('category-not-in-config', "'bird'")]
    assert check.category_ids == {1, 2, 3}
    check.check_images()
    assert list(check.images) == [2, 3]
    assert tally.counts == {'category-not-in-config': 1, 'image-entry-malformed': 1}
    found = [(annotation['id'], problems) for annotation, problems in check.annotations()]
    assert found == [
        (1, ['unknown-image']),
        (2, ['unknown-image']),
        (3, ['empty-box']),
        *((i, []) for i in (4, 5, 6, 7)),
        (3, ['empty-box']),
    ]
    assert tally.examples['duplicate-annotation-id'] == ['annotation 3']
    assert tally.examples['annotation-malformed'] == ['entry 8']


@pytest.mark.parametrize(('num_decoded', 'num_found'), [(None, 6), (3, 3), (1, 1)])
def test_masks_are_decoded_in_a_sample_spread_over_the_file(data, num_decoded, num_found):
    annotations = [a for a in data.content['annotations'] if not a['iscrowd']]
    for annotation in annotations:
        annotation['segmentation'] = dict(size=[48, 64], counts='garbage')
    data.content['annotations'] = annotations
    check = AnnotationFileCheck(data.content, CLASSES, ProblemTally(), num_decoded=num_decoded)
    check.check_images()
    assert sum(problems == ['undecodable-rle'] for _, problems in check.annotations()) == num_found


def test_polygons_only_takes_rle_for_crowds_alone(data):
    data.annotation['segmentation'] = data.content['annotations'][-1]['segmentation']
    for polygons_only, expected in ((False, []), (True, [(1, ['rle-object'])])):
        check = AnnotationFileCheck(data.content, CLASSES, ProblemTally(), polygons_only=polygons_only)
        check.check_images()
        found = [(annotation['id'], problems) for annotation, problems in check.annotations() if problems]
        assert found == expected
