_base_ = './schedule_3x.py'

train_cfg = dict(max_iters=15000, val_interval=5000)
optim_wrapper = dict(optimizer=dict(lr=0.02))

# lr is for 32 images a step: 8 GPUs x 4 images.
auto_scale_lr = dict(base_batch_size=32)
