"""``python -m sendq.simulator``: the simulator as a process. Prints its URL on one line, then serves."""

from __future__ import annotations

import argparse
import ssl
import sys

from sendq.simulator import Simulator


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 after SIGINT or SIGTERM, 2 when the address cannot be had or the TLS files cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m sendq.simulator", description="A stand-in for the Nylas v3 API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--api-key", default="test-key", help="the only key that is let in (default: test-key)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="how long every request takes")
    parser.add_argument("--seed", type=int, default=0, help="decides the faults that happen by chance")
    parser.add_argument("--no-auto-grants", action="store_true", help="unknown grants are a 404")
    parser.add_argument("--no-auto-messages", action="store_true", help="unknown messages are a 404")
    parser.add_argument("--no-bodies", action="store_true", help="keep no bodies in the log of requests")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="serve https with these PEM files")
    given = parser.parse_args(arguments)
    try:
        Simulator(
            given.api_key,
            latency=given.latency,
            host=given.host,
            port=given.port,
            seed=given.seed,
            tls=_tls(given.tls),
            auto_grants=not given.no_auto_grants,
            auto_messages=not given.no_auto_messages,
            log_bodies=not given.no_bodies,
        ).serve_forever(_print)
    except OSError as error:
        sys.stderr.write(f"cannot serve: {error.strerror or error}\n")
        return 2
    return 0


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
