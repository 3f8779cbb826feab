"""All cases by name, in the order of the table."""

from evaluation.speed.cases import (
    attribution,
    compiled,
    curves,
    figures,
    information,
    precision,
    report,
    road,
    samplers,
    training,
    waits,
)
from evaluation.speed.growth import catalogue as growth
from evaluation.speed.records import Case

GROUPS = (
    curves,
    compiled,
    precision,
    attribution,
    information,
    samplers,
    training,
    road,
    figures,
    report,
    waits,
    growth,
)
CASES: dict[str, Case] = {case.name: case for group in GROUPS for case in group.CASES}
