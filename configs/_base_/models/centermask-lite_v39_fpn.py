_base_ = ['./centermask_v39_fpn.py', './lite.py']

model = _base_.lite
