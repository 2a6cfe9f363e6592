import pytest

from mmdet_sag.checks.problem_kinds import PROBLEM_KINDS, Fix, Stops, Subject


@pytest.mark.parametrize('kind', PROBLEM_KINDS)
def test_a_row_is_consistent(kind):
    entry = PROBLEM_KINDS[kind]
    assert '{' not in entry.meaning
    assert entry.remedy.format(poly2mask='PLACE')
    if entry.notice:
        assert entry.stops is Stops.NOTHING and entry.fix is None
    if entry.hides_mask:
        assert entry.subject in (Subject.BOX, Subject.AREA)
        assert Stops.TRAINING not in entry.stops, 'training skips it'
    if entry.of_one_image:
        assert entry.subject is Subject.IMAGE
        assert entry.of_one_image.format(width=1, height=2)


@pytest.mark.parametrize(
    ('fixes', 'subject'),
    [
        ((Fix.DROP_IMAGE, Fix.DROP_LATER_IMAGE), Subject.IMAGE),
        ((Fix.ADD_BOX, Fix.REPLACE_BOX, Fix.CLIP_BOX), Subject.BOX),
        ((Fix.ADD_AREA, Fix.REPLACE_AREA), Subject.AREA),
        ((Fix.DROP_POLYGON,), Subject.MASK),
    ],
)
def test_a_repair_concerns_what_is_broken(fixes, subject):
    repaired = [entry for entry in PROBLEM_KINDS.values() if entry.fix in fixes]
    assert repaired
    assert all(entry.subject is subject for entry in repaired)
