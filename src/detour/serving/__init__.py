"""The picture server: durable jobs, three HTTP interfaces, one drawing engine."""
