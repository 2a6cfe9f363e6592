"""Pictures of dark lines on a bright ground in MMSegmentation's layout of CHASE_DB1, and tiny networks for them."""

from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

CONFIGS = Path(__file__).parents[2] / 'configs/sa_unet'
FULL_SIZE = CONFIGS / 'sa-unet_1xb2-150e_chase-db1-1008x1008.py'
DATA_SETS = ('train_dataloader.dataset.dataset', 'val_dataloader.dataset', 'test_dataloader.dataset')
FEW_CHANNELS = {
    'model.backbone.base_channels': 4,
    'model.decode_head.in_channels': 4,
    'model.decode_head.channels': 4,
}


def write_vessels(folder: Path) -> None:
    """Write images, whose sides are no multiples of 8, and labels into a folder."""
    generator = np.random.default_rng(0)
    for split, count in dict(training=4, validation=2).items():
        images, labels = (folder / kind / split for kind in ('images', 'annotations'))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(count):
            label = np.zeros((60, 68), np.uint8)
            for _ in range(3):
                start, end = (tuple(map(int, generator.integers(0, 60, 2))) for _ in range(2))
                cv2.line(label, start, end, 1, 3)
            image = np.where(label[..., None], 60, 180) + generator.integers(-20, 20, (60, 68, 3))
            cv2.imwrite(str(images / f'{split}_{i}.png'), image.astype(np.uint8))
            cv2.imwrite(str(labels / f'{split}_{i}_1stHO.png'), label)


def write_tiny_segmentor(folder: Path, path: Path = FULL_SIZE, **options: object) -> tuple[Path, Path]:
    """Write data, the config of a tiny network and its random weights into a folder; paths of the latter two.

    Its logits are spread around 0, so that all classes are found.
    """
    init_default_scope('mmseg')
    write_vessels(folder / 'data')
    config = Config.fromfile(path)
    config.merge_from_dict({f'{place}.data_root': str(folder / 'data') for place in DATA_SETS})
    for place in ('val_dataloader', 'test_dataloader'):
        config[place].update(num_workers=0, persistent_workers=False)
    # The time of an export grows with the number of layers.
    config.merge_from_dict({**FEW_CHANNELS, 'model.backbone.num_stages': 2, **options})
    torch.manual_seed(1)
    model = MODELS.build(config.model).eval()
    model.init_weights()
    head = model.decode_head.conv_seg
    torch.nn.init.normal_(head.weight)
    image = cv2.imread(str(folder / 'data/images/validation/validation_0.png'))[:56, :64].transpose(2, 0, 1)
    with torch.no_grad():
        logits = model(torch.from_numpy(image)[None] / 255.0)[0].flatten(1)
        spread = 3 / logits.std(dim=1)
        head.weight *= spread[:, None, None, None]
        head.bias.copy_(-spread * logits.median(dim=1).values)
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
    config.dump(folder / 'tiny.py')
    return folder / 'tiny.py', folder / 'tiny.pth'
