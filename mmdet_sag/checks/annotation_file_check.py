from collections import Counter
from collections.abc import Iterator, Sequence

from ..datasets.annotation_problems import (
    annotation_problems,
    category_id_problem,
    category_problems,
    usable_category_ids,
    usable_images,
)
from .problem_tally import ProblemTally


class AnnotationFileCheck:
    """One pass over the content of an annotation file: its categories, then its images, then its annotations.

    The parts are methods, to be called in this order, so that who checks can stop after each of them.

    Args:
        content: Content of the file.
        classes: Class names of the config.
        tally: Gets the problems of categories and images, and of annotations those that do not lie in one alone.
        masks_needed: Whether masks are looked at.
        polygons_only: Whether training reads polygons and nothing else.
        num_decoded: Number of annotations, spread over the file, whose compressed masks are decoded; None: all.

    Attributes:
        images: Usable image entries by id; empty before :meth:`check_images`.
        category_ids: Ids of the file's categories.
    """

    def __init__(
        self,
        content: dict,
        classes: Sequence[str],
        tally: ProblemTally,
        masks_needed: bool = True,
        polygons_only: bool = False,
        num_decoded: int | None = None,
    ) -> None:
        self.content = content
        self.classes = classes
        self.tally = tally
        self.masks_needed = masks_needed
        self.polygons_only = polygons_only
        self.num_decoded = num_decoded
        self.images: dict = {}
        self.category_ids = usable_category_ids(content['categories'])

    def check_categories(self) -> list[tuple[str, str]]:
        """Tallies the problems of the categories, and returns them as pairs of kind and example."""
        problems = category_problems(self.content['categories'], self.classes)
        self._add(problems)
        return problems

    def check_images(self) -> None:
        """Tallies the problems of the image entries, without looking at files."""
        self.images, problems = usable_images(self.content['images'])
        self._add(problems)

    def annotations(self) -> Iterator[tuple[dict, list[str]]]:
        """Goes through the annotations.

        Yields:
            An annotation that has its ids, and its kinds of problem. Malformed ones, ids that are used more than
            once, and what is wrong with the category ids of all are tallied here, all else is left to the caller.
        """
        entries = self.content['annotations']
        step = 1 if self.num_decoded is None else max(1, len(entries) // self.num_decoded)
        seen = set()
        used: Counter = Counter()
        strays = []
        for index, annotation in enumerate(entries):
            problems = annotation_problems(
                annotation,
                self.images,
                self.category_ids,
                self.masks_needed,
                decode=index % step == 0,
                polygons_only=self.polygons_only,
            )
            if 'annotation-malformed' in problems:
                self.tally.add('annotation-malformed', f'entry {index}')
                continue
            if annotation['id'] in seen:
                self.tally.add('duplicate-annotation-id', f'annotation {annotation["id"]}')
            seen.add(annotation['id'])
            used[annotation['category_id']] += 1
            if 'unknown-category' in problems:
                strays.append(annotation['id'])
            yield annotation, problems
        mistake = category_id_problem(used, self.category_ids)
        if mistake is not None:
            self._add([(mistake, f'annotation {stray}') for stray in strays])

    def _add(self, problems: list[tuple[str, str]]) -> None:
        for kind, example in problems:
            self.tally.add(kind, example)
