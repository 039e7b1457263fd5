"""What is reported of a worker: log events, metrics, alerts, traces, and Flower's task events."""
