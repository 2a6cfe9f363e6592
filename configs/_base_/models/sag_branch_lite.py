_base_ = ['./sag_branch.py', './lite.py']

sag_branch = dict(roi_head=_base_.lite.roi_head)
