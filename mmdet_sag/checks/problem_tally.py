from .problem_kinds import PROBLEM_KINDS


class ProblemTally:
    """Counts problems by kind and keeps the first few of each as examples.

    Args:
        max_examples: Examples kept of each kind.
    """

    def __init__(self, max_examples: int = 5) -> None:
        self.max_examples = max_examples
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, kind: str, example: str) -> None:
        """Counts one problem.

        Args:
            kind: A key of ``PROBLEM_KINDS``.
            example: The thing concerned, such as ``annotation 7`` or a file name.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.max_examples:
            examples.append(example)

    def describe(self, kind: str) -> str:
        """One phrase about the problems of a kind: how many, what, and the first of them."""
        return f'{self.counts[kind]} {PROBLEM_KINDS[kind].meaning}, e.g. {self.examples[kind][0]}'

    def as_rows(self) -> list[dict]:
        """The problems in the order of ``PROBLEM_KINDS``, as mappings that JSON can hold."""
        return [
            dict(
                kind=kind,
                count=self.counts[kind],
                meaning=entry.meaning,
                stops_training=entry.stops_training,
                stops_evaluation=entry.stops_evaluation,
                fix=entry.fix.value if entry.fix else '',
                examples=self.examples[kind],
            )
            for kind, entry in PROBLEM_KINDS.items()
            if kind in self.counts
        ]
