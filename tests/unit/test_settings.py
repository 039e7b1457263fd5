"""The settings: read once, checked whole, and silent about their secrets."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from celery.app import defaults
from pydantic import ValidationError

from settings import Settings, SettingsError
from settings.celery import celery_config
from settings.logs import start_logs
from settings.values import nth_address

WHSEC = "hush" * 10
SECRETS = {
    "NYLAS_API_KEY": "nyk_v0_hush",
    "NYLAS_WEBHOOK_SECRET": "hush-hook",
    "DATABASE_URL": "postgres://web:hush-ledger@db.example.com/app",
    "REDIS_URL": "rediss://:hush-broker@redis.example.com:6380/1",
    "SENTRY_DSN": "https://hush-dsn@sentry.example.com/1",
    "SENDQ_APPLICATIONS": '{"eu": {"api_key": "hush-eu"}}',
    "SENDQ_OUTCOME_SECRET": f"whsec_{WHSEC}",
    "SENDQ_OUTCOME_BROKER_URL": "redis://:hush-outcomes@redis.example.com:6380/1",
    "SENDQ_OUTCOME_ENDPOINTS": json.dumps({"a": {"url": "https://b.example/hush", "secret": f"whsec_{WHSEC}"}}),
}


def refused(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    return str(caught.value)


class TestLoading:
    def test_an_empty_environment_gives_the_defaults(self) -> None:
        settings = Settings.load({})
        assert settings == Settings()
        assert (settings.concurrency, settings.read_timeout_s, settings.key_max_age_s) == (100, 150.0, 2700.0)

    def test_reads_our_names_and_the_usual_ones(self) -> None:
        settings = Settings.load({"SENDQ_CONCURRENCY": "7", "NYLAS_CLIENT_ID": "abc", "SENDQ_TASK_EVENTS": "true"})
        assert (settings.concurrency, settings.nylas_client_id, settings.task_events) == (7, "abc", True)

    def test_our_name_wins_over_the_usual_one(self) -> None:
        settings = Settings.load({"DATABASE_URL": "sqlite:////a.db", "SENDQ_DATABASE_URL": "sqlite:////b.db"})
        assert settings.ledger_url.get_secret_value() == "sqlite:////b.db"

    def test_an_empty_variable_counts_as_unset(self) -> None:
        assert Settings.load({"SENDQ_CONCURRENCY": "", "DATABASE_URL": " "}) == Settings()

    def test_made_by_hand_it_does_not_look_at_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENDQ_CONCURRENCY", "7")
        assert Settings().concurrency == 100
        assert Settings.load().concurrency == 7

    def test_nothing_can_be_changed_afterwards(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(Settings(), "concurrency", 3)  # noqa: B010  # mypy refuses the plain form

    def test_a_changed_copy_keeps_the_rest_and_is_checked_again(self) -> None:
        settings = Settings.load(SECRETS).replace(redis_url="unix:///run/redis.sock?db=2", concurrency=3)
        assert settings.broker_url.get_secret_value() == "redis+socket:///run/redis.sock?virtual_host=2"
        assert settings.application("eu").api_key().get_secret_value() == "hush-eu"
        assert settings.slow_calls == 12
        with pytest.raises(ValidationError):
            settings.replace(concurrency=0)


class TestAMistake:
    def test_every_one_is_told_at_once_each_with_variable_reason_and_remedy(self) -> None:
        assert refused(SENDQ_CONCURRENCY="many", SENDQ_TURN_S="0", SENDQ_LOG_FORMAT="xml").splitlines() == [
            "SENDQ_CONCURRENCY: should be a valid integer, unable to parse string as an integer; "
            "correct it, or remove it for the default of 100 calls",
            "SENDQ_TURN_S: should be greater than 0; correct it, or remove it for the default of 2 s",
            "SENDQ_LOG_FORMAT: should be 'json' or 'console'; correct it, or remove it for the default of json",
        ]

    def test_is_told_under_the_name_that_was_used(self) -> None:
        assert refused(DATABASE_URL="mysql://h/d").startswith("DATABASE_URL: is neither PostgreSQL nor SQLite; ")
        assert refused(SENDQ_DATABASE_URL="mysql://h/d").startswith("SENDQ_DATABASE_URL: ")

    def test_in_a_name_is_told_with_the_nearest_one(self) -> None:
        assert refused(SENDQ_CONCURENCY="3") == "SENDQ_CONCURENCY: is not a setting; did you mean SENDQ_CONCURRENCY?"
        assert refused(SENDQ_ZZZ="3") == "SENDQ_ZZZ: is not a setting; remove it (sendq settings lists all variables)"

    def test_is_not_what_kubernetes_or_dev_put_there(self) -> None:
        Settings.load(
            {
                "SENDQ_SERVICE_HOST": "10.0.0.1",
                "SENDQ_SERVICE_PORT_HTTP": "80",
                "SENDQ_PORT": "tcp://10.0.0.1:80",
                "SENDQ_FLOWER_PORT_5555_TCP_ADDR": "10.0.0.1",
                "SENDQ_PYTHON": "python3.12",
            }
        )

    @pytest.mark.parametrize(
        ("environ", "named", "because"),
        [
            ({"SENDQ_STALE_AFTER_S": "6"}, "SENDQ_STALE_AFTER_S", "two late heartbeats"),
            ({"SENDQ_UNCLAIMED_AFTER_S": "2"}, "SENDQ_UNCLAIMED_AFTER_S", "dispatched twice"),
            ({"SENDQ_POLL_S": "1.5"}, "SENDQ_POLL_S", "takes over late"),
            ({"REDIS_URL": "memory://", "DATABASE_URL": "postgresql://h/d"}, "REDIS_URL", "connects no two workers"),
            ({"SENDQ_SLOW_AFTER_S": "150"}, "SENDQ_SLOW_AFTER_S", "never counts as slow"),
            ({"SENDQ_KEY_MAX_AGE_S": "3450"}, "SENDQ_KEY_MAX_AGE_S", "the hour for which Nylas remembers keys"),
            ({"SENDQ_OUTCOME_HOSTS": "hooks.example.com"}, "SENDQ_OUTCOME_SECRET", "cannot verify"),
            (
                {"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "https://b.example/"}}'},
                "SENDQ_OUTCOME_SECRET",
                "cannot verify",
            ),
            ({"SENDQ_KEY_MAX_AGE_S": "3200"}, "SENDQ_KEY_MAX_AGE_S", "300 s of clock difference"),
            ({"NYLAS_API_KEY": "a", "NYLAS_API_KEY_FILE": "/b"}, "NYLAS_API_KEY", "one of the two"),
        ],
    )
    def test_between_two_settings_is_told_with_its_reason(
        self, environ: dict[str, str], named: str, because: str
    ) -> None:
        said = refused(**environ)
        assert said.startswith(f"{named}: ")
        assert because in said
        assert "\n" not in said

    def test_never_repeats_a_value(self) -> None:
        wrong = {
            "NYLAS_API_KEY": "hush hush",
            "NYLAS_WEBHOOK_SECRET": "hush\nhush",
            "DATABASE_URL": "mysql://me:hush@host/db",
            "REDIS_URL": "redis://:hush@host/hush",
            "SENDQ_APPLICATIONS": '{"eu": {"api_key": "hush hush", "api_kei": "hush"}}',
            "NYLAS_API_URI": "https://hush@host",
        }
        said = refused(**wrong)
        assert said.count("\n") == 6
        assert "hush" not in said


class TestSecrets:
    def test_never_print(self, tmp_path: Path) -> None:
        settings = Settings.load(SECRETS)
        shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
        shown += [repr(settings.applications), str(settings.ledger_url), repr(settings.broker_url)]
        assert not [text for text in shown if "hush" in text]

    def test_leave_the_rest_of_an_address_readable(self) -> None:
        settings = Settings.load(SECRETS)
        assert str(settings.ledger_url) == "postgresql+psycopg://web:***@db.example.com/app"
        assert str(settings.broker_url) == "rediss://:***@redis.example.com:6380/1?ssl_cert_reqs=required"

    def test_do_not_print_when_a_value_made_by_hand_is_wrong(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Settings(database_url="mysql://me:hush@host/db", nylas_api_key="hush hush")
        assert "hush" not in str(caught.value)


class TestTheLedgersAddress:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("postgres://u:p@h:5/d", "postgresql+psycopg://u:p@h:5/d"),
            ("postgresql://u@h/d?sslmode=require", "postgresql+psycopg://u@h/d?sslmode=require"),
            ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
            ("postgresql:///d?host=/run/pg", "postgresql+psycopg:///d?host=%2Frun%2Fpg"),
            ("sqlite:////var/s.db", "sqlite:////var/s.db"),
            ("sqlite+pysqlite:///s.db", "sqlite:///s.db"),
        ],
    )
    def test_is_brought_into_one_form(self, given: str, used: str) -> None:
        assert Settings.load({"DATABASE_URL": given}).ledger_url.get_secret_value() == used

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("mysql://h/d", "neither PostgreSQL nor SQLite"),
            ("postgresql+asyncpg://h/d", "another driver"),
            ("sqlite+aiosqlite:///s.db", "another driver"),
            ("sqlite://", "in-memory"),
            ("sqlite:///:memory:", "in-memory"),
            ("postgresql://h", "names no database"),
            ("postgresql://h:port/d", "not a database address"),
            ("app.db", "not a database address"),
        ],
    )
    def test_of_another_kind_is_refused(self, given: str, reason: str) -> None:
        assert reason in refused(DATABASE_URL=given)

    def test_is_a_file_at_home_by_default(self, tmp_path: Path) -> None:
        url = Settings.load({"SENDQ_HOME": str(tmp_path / "a b")}).ledger_url.get_secret_value()
        assert url == f"sqlite:///{tmp_path}/a b/sendq.db"


class TestTheBrokersAddress:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("redis://h", "redis://h"),
            ("redis://:p@h:6379/3", "redis://:p@h:6379/3"),
            ("rediss://h", "rediss://h?ssl_cert_reqs=required"),
            ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none"),
            ("unix:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
            ("unix:///run/r.sock?db=3&password=a%40b", "redis+socket://:a%40b@/run/r.sock?virtual_host=3"),
            ("redis+socket:///run/r.sock?virtual_host=2", "redis+socket:///run/r.sock?virtual_host=2"),
            ("memory://", "memory://"),
            ("valkey://:p@h:6379/3", "redis://:p@h:6379/3"),
            ("valkeys://h", "rediss://h?ssl_cert_reqs=required"),
            ("sentinel://a?master_name=m", "sentinel://a:26379/0?master_name=m"),
            (
                "sentinel://:p%40@a:1/2;sentinel://[::1]?master_name=m&sentinel_password=s%26",
                "sentinel://:p%40@a:1/2;sentinel://:p%40@[::1]:26379/2?master_name=m&sentinel_password=s%26",
            ),
        ],
    )
    def test_is_brought_into_the_form_that_celery_reads(self, given: str, used: str) -> None:
        assert Settings.load({"REDIS_URL": given}).broker_url.get_secret_value() == used

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("redis-cluster://h:6379", "Redis Cluster"),
            ("redis://a:6379,b:6379", "Redis Cluster"),
            ("rediss://clustercfg.x.cache.amazonaws.com:6379", "Redis Cluster"),
            ("amqp://h", "not the address of a Redis"),
            ("redis://h/jobs", "not a number"),
            ("redis://h:port/0", "not an address"),
            ("redis://h?db=1", "options that the broker ignores"),
            ("unix://", "names no socket"),
            *((f"redis://:pa{raw}ss@h:6379/0", "# / ? [ ]") for raw in "#/?[] "),
            ("rediss://us/er:pass@h:6379/0", "# / ? [ ]"),
            ("valkey-cluster://h", "Redis Cluster"),
            ("valkey://h/jobs", "not a number"),
            ("sentinel://a:26379", "does not name the primary"),
            ("sentinel://a?master_name=", "does not name the primary"),
            ("sentinel://a;redis://b?master_name=m", "not the address of a sentinel"),
            ("sentinel://a:port?master_name=m", "sentinel"),
            ("sentinel://a/1;sentinel://b/2?master_name=m", "different logins or databases"),
            ("sentinel://:p@a;sentinel://:q@b?master_name=m", "different logins or databases"),
            ("sentinel://a/jobs?master_name=m", "not a number"),
            ("sentinel://a?master_name=m&ssl_cert_reqs=none", "has parameters other than"),
            ("sentinel://:p/w@a?master_name=m", "# / ? [ ]"),
        ],
    )
    def test_that_celery_cannot_use_is_refused(self, given: str, reason: str) -> None:
        assert reason in refused(REDIS_URL=given)

    def test_with_sentinels_is_divided_as_kombu_reads_it(self) -> None:
        url = "sentinel://u:p%40@a;sentinel://b/1?master_name=m&sentinel_password=hush"
        settings = Settings.load({"REDIS_URL": url})
        assert Settings.load({"REDIS_URL": settings.broker_url.get_secret_value()}).broker_url == settings.broker_url
        config = celery_config(settings)
        assert config["broker_url"] == "sentinel://u:p%40@a:26379/1;sentinel://u:p%40@b:26379/1"
        options = config["broker_transport_options"]
        assert (options["master_name"], options["sentinel_kwargs"]["password"]) == ("m", "hush")
        assert options["sentinel_kwargs"]["socket_timeout"] == options["socket_timeout"]
        assert not {"hush", "p%40"} & set(re.split(r"[:=@?;&]", str(settings.broker_url)))

    def test_is_missed_with_a_remedy(self) -> None:
        with pytest.raises(SettingsError, match=r"REDIS_URL: is not set; .*sendq up"):
            celery_config(Settings())


class TestTheSentryDsn:
    @pytest.mark.parametrize("given", ["127.0.0.1:9465", "0.0.0.0:0", "[::1]:9465", " worker:1 "])
    def test_metrics_are_served_at_host_and_port(self, given: str) -> None:
        assert Settings.load({"SENDQ_METRICS_ADDRESS": given}).metrics_address == given.strip()

    @pytest.mark.parametrize("given", ["9465", ":9465", "localhost", "::1:9465", "localhost:http", "localhost:65536"])
    def test_metrics_are_served_nowhere_else(self, given: str) -> None:
        assert "write host:port" in refused(SENDQ_METRICS_ADDRESS=given)

    def test_metrics_of_workers_beside_each_other_have_a_port_each(self) -> None:
        assert [nth_address("[::1]:9465", number) for number in (1, 2)] == ["[::1]:9465", "[::1]:9466"]
        assert nth_address("127.0.0.1:0", 2) == "127.0.0.1:0"

    @pytest.mark.parametrize("given", ["foo", "https://sentry.example.com/1", "https://key@sentry.example.com/", "/1"])
    def test_that_names_no_project_is_refused(self, given: str) -> None:
        assert "Sentry project" in refused(SENTRY_DSN=given)

    def test_may_have_a_path_before_the_number(self) -> None:
        assert Settings.load({"SENTRY_DSN": "https://key@example.com/sentry/42"}).sentry_dsn is not None


class TestApplications:
    def test_default_comes_from_the_plain_names(self) -> None:
        settings = Settings.load({"NYLAS_API_KEY": " key\n", "NYLAS_API_URI": "https://api.eu.nylas.com/"})
        application = settings.application()
        assert application.api_key().get_secret_value() == "key"
        assert application.api_uri == "https://api.eu.nylas.com"

    def test_others_come_by_name(self) -> None:
        settings = Settings.load(SECRETS)
        assert list(settings.applications) == ["default", "eu"]
        assert settings.application("eu").api_uri == "https://api.us.nylas.com"

    def test_named_ones_alone_need_no_default(self) -> None:
        settings = Settings.load({"SENDQ_APPLICATIONS": '{"eu": {"api_key": "key"}}'})
        assert list(settings.applications) == ["eu"]
        with pytest.raises(SettingsError, match="has no application 'default'"):
            settings.application()

    def test_a_key_file_is_read_each_time(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        application = Settings.load({"NYLAS_API_KEY_FILE": str(file)}).application()
        for key in ("first", "second"):
            file.write_text(f"{key}\n")
            assert application.api_key().get_secret_value() == key

    def test_one_plain_variable_makes_the_default_one_and_its_key_is_missed(self) -> None:
        settings = Settings.load(
            {"NYLAS_WEBHOOK_SECRET": "w", "SENDQ_APPLICATIONS": json.dumps({"other": {"api_key": "k"}})}
        )
        assert settings.applications.keys() == {"default", "other"}
        with pytest.raises(SettingsError, match="NYLAS_API_KEY: is not set"):
            settings.require_keys()

    def test_without_a_readable_key_are_all_told(self, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "letter").write_text("hush, it is a secret")
        named = {name: {"api_key_file": str(tmp_path / name)} for name in ("gone", "empty", "letter")}
        settings = Settings.load({"SENDQ_APPLICATIONS": json.dumps(named | {"none": {}})})
        with pytest.raises(SettingsError) as caught:
            settings.require_keys()
        said = str(caught.value).splitlines()
        assert said[0].startswith("SENDQ_APPLICATIONS.gone.api_key_file: cannot be read (No such file or directory); ")
        assert [line.split(";")[0] for line in said[1:]] == [
            "SENDQ_APPLICATIONS.empty.api_key_file: names a file without a key",
            "SENDQ_APPLICATIONS.letter.api_key_file: names a file without a key",
            "SENDQ_APPLICATIONS.none.api_key: is not set",
        ]
        assert "hush" not in str(caught.value)

    def test_a_missing_key_is_no_error_before_a_worker_asks_for_it(self) -> None:
        settings = Settings.load({})
        with pytest.raises(SettingsError, match="NYLAS_API_KEY: is not set; set it to the API key"):
            settings.require_keys()

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("eu", "is not JSON"),
            ("[]", "is not a JSON object"),
            ('{"a b": {}}', "1 invalid name(s)"),
            ('{"eu": 3}', "SENDQ_APPLICATIONS.eu: "),
            ('{"eu": {"api_kei": "x"}}', "SENDQ_APPLICATIONS.eu.api_kei: extra inputs are not permitted"),
            ('{"eu": {"api_key": "x", "api_key_file": "/y"}}', "keep one of the two"),
        ],
    )
    def test_written_wrongly_are_refused(self, given: str, reason: str) -> None:
        assert reason in refused(SENDQ_APPLICATIONS=given)

    def test_default_is_configured_in_one_place(self) -> None:
        said = refused(NYLAS_API_KEY="x", SENDQ_APPLICATIONS='{"default": {"api_key": "y"}}')
        assert "define the same application" in said

    @pytest.mark.parametrize(
        ("uri", "reason"),
        [
            ("api.us.nylas.com", "not a web address"),
            ("https://api.us.nylas.com/v3", "has a path"),
            ("https://key@api.us.nylas.com", "more than scheme and host"),
            ("http://api.us.nylas.com", "unencrypted"),
            ("http://127.evil.com", "unencrypted"),
            ("http://134744072", "unencrypted"),
            ("http://0x8080808", "unencrypted"),
            ("http://[2001:db8::1]", "unencrypted"),
            ("http://[::ffff:8.8.8.8]", "unencrypted"),
            ("http://intranet", "unencrypted"),
            ("http://localhost.evil.com", "unencrypted"),
            ("http://0.0.0.0:80", "unencrypted"),
            ("https://api.us.nylas.com:x", "not an address"),
        ],
    )
    def test_at_a_wrong_address_are_refused(self, uri: str, reason: str) -> None:
        assert reason in refused(NYLAS_API_URI=uri)

    @pytest.mark.parametrize(
        "uri", ["http://127.0.0.1:8080", "http://localhost:1", "http://127.1.2.3:80", "http://[::1]:1"]
    )
    def test_may_be_a_simulator_nearby(self, uri: str) -> None:
        assert Settings.load({"NYLAS_API_URI": uri}).application().api_uri == uri


class TestTheTableOfSettings:
    def test_tells_the_meaning_of_every_field(self) -> None:
        table = Settings.describe()
        assert [row.name for row in table] == list(Settings.model_fields)
        assert all(row.meaning and row.env for row in table)

    def test_tells_the_unit_of_every_number(self) -> None:
        numbers = [row for row in Settings.describe() if row.default.replace(".", "").isdecimal()]
        assert len(numbers) > 10
        assert all(row.unit for row in numbers)
        assert all((row.unit == "s") == row.name.endswith("_s") for row in numbers)

    def test_gives_no_variable_to_two_fields(self) -> None:
        names = [name for row in Settings.describe() for name in row.env]
        assert len(names) == len(set(names))

    def test_knows_nothing_of_the_machine_that_printed_it(self) -> None:
        assert next(row.default for row in Settings.describe() if row.name == "home") == ".run/sendq"


class TestCelerysConfiguration:
    config = celery_config(Settings(redis_url="redis://h", threads=8))

    def test_uses_only_names_that_celery_knows(self) -> None:
        known = {name for name, _ in defaults.flatten(defaults.NAMESPACES)} | {"worker_enable_prefetch_count_reduction"}
        assert not self.config.keys() - known

    def test_lives_beside_another_celery_on_the_same_redis(self) -> None:
        own = {**self.config, **self.config["broker_transport_options"]}
        for name in ("task_default_queue", "control_exchange", "event_exchange", "unacked_key", "unacked_index_key",
                     "unacked_mutex_key"):  # fmt: skip
            assert own[name].startswith("sendq")

    def test_leaves_time_and_truth_to_the_ledger(self) -> None:
        assert self.config["result_backend"] is None
        assert self.config["task_acks_late"] is False
        assert self.config["accept_content"] == ["json"]

    def test_has_a_connection_for_every_thread(self) -> None:
        assert self.config["broker_pool_limit"] > self.config["worker_concurrency"]


class TestTheLog:
    @pytest.fixture
    def log(self) -> Iterator[io.StringIO]:
        root = logging.getLogger()
        before = root.handlers[:], root.level
        stream = io.StringIO()
        start_logs(Settings(), stream)
        yield stream
        root.handlers[:], root.level = before
        structlog.reset_defaults()

    def test_is_one_json_object_a_line_whoever_speaks(self, log: io.StringIO) -> None:
        structlog.get_logger("ours").info("job.sent", job="j1")
        logging.getLogger("theirs").warning("lost %s", "connection")
        ours, theirs = map(json.loads, log.getvalue().splitlines())
        assert (ours["event"], ours["job"], ours["level"]) == ("job.sent", "j1", "info")
        assert (theirs["event"], theirs["logger"], theirs["level"]) == ("lost connection", "theirs", "warning")
        assert ours["timestamp"].endswith("Z")

    def test_holds_the_type_and_the_place_of_an_exception_and_none_of_its_words(self, log: io.StringIO) -> None:
        words = "bad subject, for hush@example.com"
        try:
            raise ValueError(words)
        except ValueError:
            structlog.get_logger().exception("refused", by="hush@example.com")
            logging.getLogger().exception("refused %s", "hush@example.com")
        assert log.getvalue().count("ValueError: (text withheld") == 2
        assert "bad subject" not in log.getvalue()
        assert "hush" not in log.getvalue()

    def test_keeps_quiet_below_its_level(self, log: io.StringIO) -> None:
        structlog.get_logger().debug("detail")
        logging.getLogger().debug("detail")
        assert log.getvalue() == ""

    def test_has_columns_for_people(self, log: io.StringIO) -> None:
        people = io.StringIO()
        start_logs(Settings(log_format="console"), people)
        structlog.get_logger().info("job.sent", job="j1")
        assert "job.sent" in people.getvalue()
        assert "{" not in people.getvalue()


class TestWhoIsToldOfOutcomes:
    SECRET = SECRETS["SENDQ_OUTCOME_SECRET"]

    def test_is_read_from_names_hosts_and_secrets(self) -> None:
        settings = Settings.load(
            {
                "SENDQ_OUTCOME_SECRET": self.SECRET,
                "SENDQ_OUTCOME_HOSTS": "Hooks.example.com, other.example:8443,",
                "SENDQ_OUTCOME_ENDPOINTS": '{"near": {"url": "http://web:8000/hook"}}',
                "SENDQ_ON_REAUTH": "billing.tasks.sign_in@high",
            }
        )
        assert settings.outcome_hosts == ("hooks.example.com", "other.example:8443")
        assert settings.outcome_endpoints["near"].url.get_secret_value() == "http://web:8000/hook"
        assert settings.on_reauth == "billing.tasks.sign_in@high"

    @pytest.mark.parametrize("name", ["SENDQ_OUTCOME_ENDPOINTS", "SENDQ_APPLICATIONS", "SENDQ_LANE_PACE"])
    def test_that_are_nested_deeply_are_refused_in_words(self, name: str) -> None:
        assert name in refused(**{name: "[" * 100_000})

    @pytest.mark.parametrize(
        ("environ", "because"),
        [
            ({"SENDQ_OUTCOME_SECRET": "hush"}, "base64 of 24 to 64 bytes"),
            ({"SENDQ_OUTCOME_HOSTS": "https://hush.example"}, "number 1"),
            ({"SENDQ_OUTCOME_HOSTS": "a.example,hush/path"}, "number 2"),
            ({"SENDQ_OUTCOME_ENDPOINTS": "hush"}, "is not JSON"),
            ({"SENDQ_OUTCOME_ENDPOINTS": "[]"}, "is not a JSON object"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"HUSH": {"url": "https://hush.example/"}}'}, "invalid name"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "http://hush.example/"}}'}, "is not encrypted"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "http://127.hush.example/"}}'}, "is not encrypted"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "http://134744072/hush"}}'}, "is not encrypted"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "http://[2001:db8::1]/hush"}}'}, "is not encrypted"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "ftp://hush"}}'}, "not a URL that begins with https"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {"url": "https://me:hush@b.example/"}}'}, "contains a login"),
            ({"SENDQ_OUTCOME_ENDPOINTS": '{"a": {}}'}, "SENDQ_OUTCOME_ENDPOINTS.a.url"),
            ({"SENDQ_ON_REAUTH": "hush"}, "dotted name"),
            ({"SENDQ_OUTCOME_BROKER_URL": "amqp://hush"}, "is not the address of a Redis server"),
        ],
    )
    def test_is_refused_with_a_reason_and_without_its_value(self, environ: dict[str, str], because: str) -> None:
        said = refused(**environ)
        assert because in said
        assert "hush" not in said.lower()
