"""The picture server on several machines: one process owns the jobs, and replicas own a model each (Ray Serve)."""
