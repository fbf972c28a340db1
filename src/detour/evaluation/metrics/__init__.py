"""Further figures of an evaluation, one file each; see :class:`detour.evaluation.metric.Metric`."""
