"""What a worker reports: log events, metrics, alerts, traces, and task events for Flower."""
