from collections.abc import Iterator
from contextlib import contextmanager

from mmdet.datasets import CocoDataset


@contextmanager
def hand_over(contents: dict[str, dict]) -> Iterator[None]:
    """Gives data sets that are built meanwhile the annotation files that were parsed before, instead of reading again.

    The first data set of a file takes its content out of ``contents``, and nothing keeps it beyond that data set's own
    reading; a second one, or one of another file, reads for itself. What nobody took is dropped at the end.

    Args:
        contents: Content of annotation files by path, as :func:`load_coco` reads them and as data sets name them.
    """
    stock = CocoDataset.COCOAPI

    class ParsedCOCO(stock):
        def __init__(self, annotation_file: str) -> None:
            content = contents.pop(annotation_file, None)
            super().__init__(annotation_file if content is None else None)
            if content is not None:
                self.dataset = content
                self.createIndex()
                self.img_ann_map = self.imgToAnns
                self.cat_img_map = self.catToImgs

    CocoDataset.COCOAPI = ParsedCOCO
    try:
        yield
    finally:
        CocoDataset.COCOAPI = stock
        contents.clear()
