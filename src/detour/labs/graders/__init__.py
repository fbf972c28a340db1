"""One module a lab; each names its tasks in ``TASKS``."""
