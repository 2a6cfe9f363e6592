from pathlib import Path

import cv2
import torch
from mmdet.registry import MODELS
from support.tiny_training import SIZE, rectangles_config, write_rectangles
from support.tool import run_tool

TOOLS = Path(__file__).parents[2] / 'tools'


def test_two_processes_with_augmented_views_draw_attention(tmp_path):
    write_rectangles(tmp_path / 'data', num_images=4)
    config = rectangles_config(tmp_path / 'data')
    config.model.test_cfg.bbox_head.score_thr = 0.0
    config.custom_hooks = [dict(type='AttentionVisualizationHook', interval=1, score_thr=0.0)]
    config.dump(tmp_path / 'config.py')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), tmp_path / 'model.pth')
    job = run_tool(
        *(TOOLS / 'test.py', 'config.py', 'model.pth', '--launcher', 'pytorch', '--tta', '--work-dir', 'work'),
        cwd=tmp_path,
        processes=2,
    )
    assert job.returncode == 0, job.stderr[-3000:]
    # Rank 0 has every second image.
    pictures = sorted(tmp_path.glob('work/*/vis_data/vis_image/attention_*.png'))
    assert [picture.name for picture in pictures] == ['attention_0.png', 'attention_1.png']
    for picture in pictures:
        height, width, _ = cv2.imread(str(picture)).shape
        # The prediction, enlarged, and the attention beside it. A strip below the prediction may name the classes.
        assert width % (2 * SIZE) == 0 and width > 2 * SIZE and height >= width // 2
