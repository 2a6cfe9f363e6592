import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, **values: object) -> str:
    """Return a page of this package as HTML: ``values`` are what its template, a file of that name, names."""
    environment = Environment(
        loader=PackageLoader('mmdet_sag.analysis', '.'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(figure=_figure, percent=_percent)
    return environment.get_template(template).render(**values)


def _figure(value: float, digits: int = 3) -> str:
    return '–' if value is None or np.isnan(value) else f'{value:.{digits}f}'


def _percent(part: int, whole: int) -> str:
    return f'{part / whole:.0%}' if whole else '–'
