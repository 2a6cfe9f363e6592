from dataclasses import dataclass, field

from ..datasets.data_sources import CocoSource
from .problem_kinds import PROBLEM_KINDS
from .problem_tally import ProblemTally


@dataclass
class DataSetReport:
    """What a full check of one data set found.

    Args:
        source: The data set.
        content: Content of its annotation file, unchanged.
        options: Places in the config that name this data set.
        tally: Problems found.
        bad_images: Kind of problem by image id, for images whose file cannot be used.
    """

    source: CocoSource
    content: dict
    options: list[str]
    tally: ProblemTally = field(default_factory=lambda: ProblemTally(max_examples=100))
    bad_images: dict = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found but what can be meant so."""
        return all(PROBLEM_KINDS[kind].notice for kind in self.tally.counts)

    def as_dict(self) -> dict:
        """The report as JSON can hold it."""
        return dict(
            options=self.options,
            ann_file=self.source.ann_file,
            image_folder=self.source.image_folder,
            images=len(self.content['images']),
            annotations=len(self.content['annotations']),
            categories=len(self.content['categories']),
            clean=self.is_clean,
            problems=self.tally.as_rows(),
        )
