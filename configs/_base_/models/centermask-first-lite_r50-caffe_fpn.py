_base_ = ['./centermask-first_r50-caffe_fpn.py', './lite.py']

model = _base_.lite
