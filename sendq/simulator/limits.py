"""The providers' limits, as in their own documentation; for `Behaviour.gate`.

    google      2,500 units in any 10 seconds ("250 a second, a moving average") and 6,000 in any minute; send 100,
                modify 5, delete 5, a listing 105
    microsoft   4 requests at once, 30 messages in any minute, 10,000 requests in any 10 minutes
    ews         400 commands in any 10 minutes, then everything is refused for 20 minutes

Deliberately not taken from sendq's paces, so that tests can check those against an independent source.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sendq.simulator.faults import Fault
from sendq.simulator.store import Grant, Request

_GOOGLE = {"send": 100, "modify": 5, "delete": 5, "list": 105, "get": 5}
_MESSAGES = {"send": 1}
_GRAPH = {"send": 4, "modify": 1, "delete": 1, "list": 1, "get": 1}
_EXCHANGE = {"send": 2, "modify": 1, "delete": 1, "list": 2, "get": 1}

# Gmail units and requests with what Nylas itself reads around the call; for `Behaviour.usage`.
_STATED_UNITS = _GOOGLE | {"send": 115}
_STATED_REQUESTS = {"google": {"send": 4, "list": 21}, "microsoft": _GRAPH, "ews": _EXCHANGE}


def stated_usage(request: Request, grant: Grant) -> dict[str, str]:
    """The headers ``Nylas-Provider-Request-Count`` and, for Gmail, ``Nylas-Gmail-Quota-Usage`` of an answer."""
    requests = _STATED_REQUESTS.get(grant.provider, {}).get(request.operation, 1)
    headers = {"Nylas-Provider-Request-Count": str(requests)}
    if grant.provider == "google" and request.operation in _STATED_UNITS:
        headers["Nylas-Gmail-Quota-Usage"] = str(_STATED_UNITS[request.operation])
    return headers


GMAIL_EXHAUSTED = Fault.status(
    429,
    name="gmail quota",
    type="rate_limit_error",
    message="Resource has been exhausted (e.g. check quota).",
    provider_error={"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}},
)
GRAPH_THROTTLED = Fault.status(
    429,
    name="graph throttle",
    type="rate_limit_error",
    message="Application is over its message rate limit.",
    provider_error={"error": {"code": "activityLimitReached", "message": "Too many requests."}},
)
MAILBOX_CONCURRENCY = Fault.status(
    429,
    name="mailbox concurrency",
    type="rate_limit_error",
    message="Application is over its MailboxConcurrency limit.",
    provider_error={"error": {"code": "ApplicationThrottled", "message": "MailboxConcurrency"}},
)
EXCHANGE_THROTTLED = Fault.status(
    429,
    name="exchange throttle",
    type="rate_limit_error",
    message="The Exchange account has been throttled or sync has been temporarily paused.",
    provider_error={"error": {"code": 503, "message": "the device SHOULD retry later"}},
)


@dataclass(slots=True)
class _Window:
    """What was used in the last ``seconds``."""

    seconds: float
    units: int
    used: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def takes(self, at: float, cost: int) -> bool:
        while self.used and self.used[0][0] <= at - self.seconds:
            self.total -= self.used.popleft()[1]
        return self.total + cost <= self.units

    def take(self, at: float, cost: int) -> None:
        self.used.append((at, cost))
        self.total += cost


class ProviderLimits:
    """``provider_of``: grant -> provider. ``scale`` shrinks every window and block (0.1: a minute is 6 seconds).

    ``admitted`` and ``refused`` count by grant. Used from the simulator's own thread.
    """

    def __init__(self, provider_of: Callable[[str], str], *, scale: float = 1.0) -> None:
        self._provider_of, self._scale = provider_of, scale
        self._windows: dict[str, list[tuple[_Window, dict[str, int], Fault]]] = {}
        self._running: defaultdict[str, list[Request]] = defaultdict(list)
        self._blocked_until: dict[str, float] = {}
        self.admitted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def __call__(self, request: Request) -> Fault | None:
        """The rejection of this request if it exceeds a limit."""
        if request.grant is None or request.operation in ("grant", "grants", "other"):
            return None
        fault = self._refusal(request, request.grant, self._provider_of(request.grant))
        (self.refused if fault else self.admitted)[request.grant] += 1
        return fault

    def _refusal(self, request: Request, grant: str, provider: str) -> Fault | None:
        if request.at < self._blocked_until.get(grant, 0.0):
            return EXCHANGE_THROTTLED
        running = self._running[grant] = [one for one in self._running[grant] if one.done_at is None]
        if provider == "microsoft" and len(running) >= 4:
            return MAILBOX_CONCURRENCY
        windows = self._windows.setdefault(grant, self._windows_of(provider))
        for window, costs, fault in windows:
            if not window.takes(request.at, costs.get(request.operation, 0)):
                if provider == "ews":
                    self._blocked_until[grant] = request.at + 1_200 * self._scale
                return fault
        for window, costs, _ in windows:
            window.take(request.at, costs.get(request.operation, 0))
        running.append(request)
        return None

    def _windows_of(self, provider: str) -> list[tuple[_Window, dict[str, int], Fault]]:
        def window(seconds: float, units: int) -> _Window:
            return _Window(seconds * self._scale, units)

        if provider == "google":
            return [
                (window(10, 2_500), _GOOGLE, GMAIL_EXHAUSTED),
                (window(60, 6_000), _GOOGLE, GMAIL_EXHAUSTED),
            ]
        if provider == "microsoft":
            return [
                (window(60, 30), _MESSAGES, GRAPH_THROTTLED),
                (window(600, 10_000), _GRAPH, GRAPH_THROTTLED),
            ]
        if provider == "ews":
            return [(window(600, 400), _EXCHANGE, EXCHANGE_THROTTLED)]
        return []
