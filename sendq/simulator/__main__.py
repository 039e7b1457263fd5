"""``python -m sendq.simulator``: the simulator as a process. Prints its URL on one line, then serves."""

from __future__ import annotations

import argparse
import ssl
import sys

from sendq.simulator import Simulator


def main(arguments: list[str] | None = None, *, prog: str = "python -m sendq.simulator") -> int:
    """Exit status 0 after SIGINT or SIGTERM, 2 if it cannot listen on the address or read the TLS files."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A simulator of the Nylas v3 API. Prints its address, then serves until it is stopped. It sends "
        "nothing. The local part of a recipient selects a failure: throttle@example.com, exchange@…, reauth@…, "
        "refused@…, timeout@…, tempfail@…, blocked-rule@…, paused@…, smtp-signin@…, sender-quota@…; or what "
        "becomes of the mail later: bounce@…, complaint@…, late-failure@…",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=0, help="port; 0 picks a free one (default)")
    parser.add_argument("--api-key", default="test-key", help="the only accepted API key (default: test-key)")
    parser.add_argument("--latency", type=_seconds, default=0.0, metavar="SECONDS", help="duration of every request")
    parser.add_argument("--bytes-per-s", type=float, metavar="N", help="rate at which the body of a request is read")
    parser.add_argument("--seed", type=int, default=0, help="seed of random faults")
    parser.add_argument("--no-auto-grants", action="store_true", help="answer 404 for unknown grants")
    parser.add_argument("--no-auto-messages", action="store_true", help="answer 404 for unknown messages")
    parser.add_argument("--no-bodies", action="store_true", help="do not record bodies of requests")
    parser.add_argument(
        "--webhook", nargs=2, metavar=("URL", "SECRET"), help="deliver notifications about mail, signed as by Nylas"
    )
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="serve https with these PEM files")
    given = parser.parse_args(arguments)
    try:
        tls = _tls(given.tls)
    except OSError as error:
        return _complain(prog, "--tls", "cannot be read", error)
    try:
        simulator = Simulator(
            given.api_key,
            latency=given.latency,
            bytes_per_s=given.bytes_per_s,
            host=given.host,
            port=given.port,
            seed=given.seed,
            tls=tls,
            auto_grants=not given.no_auto_grants,
            auto_messages=not given.no_auto_messages,
            log_bodies=not given.no_bodies,
        )
        if given.webhook:
            simulator.webhook(*given.webhook)
        simulator.serve_forever(_print)
    except OSError as error:
        return _complain(prog, "--host, --port", "cannot be listened on", error)
    return 0


def _complain(prog: str, option: str, reason: str, error: OSError) -> int:
    sys.stderr.write(f"{prog}: {option}: {reason} ({error.strerror or error}); choose others\n")
    return 2


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65_535:
        raise argparse.ArgumentTypeError("must be a whole number from 0 to 65535")
    return int(given)


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be a number of seconds from 0 to 3600")
    return seconds


def _print(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


def _tls(files: list[str] | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    return context


if __name__ == "__main__":
    sys.exit(main())
