"""One metric family from one field of many things."""

from collections.abc import Sequence

from contract.metrics import Labels, Metric, Page


def write_field(
    page: Page, metric: Metric, field: str, named: Sequence[tuple[Labels, object]]
) -> None:
    """One family from one field of many things; what was not measured has no sample."""
    page.family(
        metric,
        [(who, value) for who, each in named if (value := getattr(each, field)) is not None],
    )
