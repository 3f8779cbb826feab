"""Attribution methods: functions `(model, images, targets, **options)`, all in `METHODS`."""

from ibviz.attribution.methods import METHODS, explain

__all__ = ["METHODS", "explain"]
