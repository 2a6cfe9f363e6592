from mmdet.utils import ConfigType


def innermost_dataset(dataset: ConfigType) -> ConfigType:
    """Config of the data set inside whatever wraps it, such as ``RepeatDataset``.

    Args:
        dataset: Config of a data set, as a dataloader has it.
    """
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset
