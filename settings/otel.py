"""OpenTelemetry: traces, exported by OTLP over HTTP if the standard variables name where to.

``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` switches it on; the SDK reads these and all
others (headers, sampler, resource, batch) itself. Without them nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sendq import __version__
from sendq.errors import Problem
from settings.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"

# Unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES names it.
SERVICE = "sendq-worker"


def traces_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the variables ask for traces by OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return "otlp" in exporters.split(",") and any(environ.get(name, "").strip() for name in ENDPOINTS)


def otel_problems(environ: Mapping[str, str]) -> list[Problem]:
    """Why traces that are asked for cannot be exported."""
    if not traces_wanted(environ):
        return []
    problems = []
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        name = next(name for name in ENDPOINTS if environ.get(name, "").strip())
        install = "run: pip install 'sendq-worker[otel]', or unset it"
        problems.append(Problem(name, "is set, but OpenTelemetry is not installed", install))
    for name in PROTOCOLS:
        if environ.get(name, "").strip() not in ("", HTTP):
            problems.append(Problem(name, f"is not {HTTP}", f"set it to {HTTP}, or unset it"))
            break
    return problems


def start_tracing(environ: Mapping[str, str] | None = None) -> TracerProvider | None:
    """The provider of tracers, or None if no traces are asked for. Call its ``shutdown`` at the end.

    Raises:
        SettingsError: they cannot be exported.
    """
    environ = os.environ if environ is None else environ
    if not traces_wanted(environ):
        return None
    if problems := otel_problems(environ):
        raise SettingsError(problems)

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
