class Code(str):
    """Python source that stands in a config as it is, in place of a value."""

    def __repr__(self) -> str:
        return str(self)


def written(value: object, indent: int = 0, width: int = 120, before: int = 0) -> str:
    """Source of a config's value: dicts as calls of ``dict``, on several lines where one is too short.

    Args:
        value: Dicts, lists, tuples, numbers, texts and :class:`Code`.
        indent: Column where the statement starts.
        width: Longest line.
        before: Length of what stands before the value in its line.
    """
    line = _line(value)
    if indent + before + len(line) < width or not isinstance(value, (dict, list, tuple)) or not value:
        return line
    inner = indent + 4
    pad = ' ' * inner
    if isinstance(value, dict):
        rows = [f'{key}={written(item, inner, width, len(key) + 1)}' for key, item in value.items()]
        start, end = 'dict(', ')'
    else:
        rows = [written(item, inner, width) for item in value]
        start, end = ('[', ']') if isinstance(value, list) else ('(', ')')
    return start + '\n' + ''.join(f'{pad}{row},\n' for row in rows) + ' ' * indent + end


def _line(value: object) -> str:
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={_line(item)}" for key, item in value.items())})'
    if isinstance(value, (list, tuple)):
        items = ', '.join(map(_line, value))
        if isinstance(value, list):
            return f'[{items}]'
        return f'({items},)' if len(value) == 1 else f'({items})'
    return repr(value)
