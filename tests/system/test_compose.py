"""docker-compose.yml, read closely: valid, closed by default, and in step with the command line and the settings."""

import json
import shlex
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from tests import composition
from tests.composition import ASKED_OVER_HTTP, ONE_SHOT, OURS, REPOSITORY, THEIRS
from worker import app, playbook, stack
from worker.cli import parser, processes
from worker.settings import PREFIX, Settings, SettingsInvalid

SERVICES = composition.services()
LASTING = (*THEIRS, *OURS)
#: those that read pictures, those that read how models learn, and those that hold a model
READERS = ("intake", "classify", "learn", "http", "cli")
PLAYBOOK_READERS = ("intake", "learn", "upkeep", "cli")
ON_DEVICE = ("classify", "learn")
#: the secrets that each service is given, and no other
SECRETS = {
    "redis": {"redis_acl"},
    "postgres": {"postgres_password"},
    "http": {"http_broker_url", "database_url"},
    "flower": {"flower_broker_url", "flower_basic_auth"},
    "webhook": {"producer_url", "webhook_token"},
    **{
        name: {"broker_url", "database_url"}
        for name in ("migrate", "intake", "classify", "learn", "upkeep", "beat", "cli")
    },
}


def every(names: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", [SERVICES[name] for name in names], ids=names)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets, made by the documented commands."""
    folder = tmp_path_factory.mktemp("site") / "secrets"
    composition.make_secrets(folder)
    return folder


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.callbacks.yml"])
def test_the_compose_specification_accepts_the_file(file: str) -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(composition.load(file))


def test_the_services_are_those_these_tests_know() -> None:
    assert set(SERVICES) == {*OURS, *ONE_SHOT, *THEIRS} == set(SECRETS)


# ---------------------------------------------------------------- closed by default


@every((*LASTING, *ONE_SHOT))
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("read_only", True),
        ("cap_drop", ["ALL"]),
        ("security_opt", ["no-new-privileges:true"]),
        ("init", True),
        ("privileged", None),
        ("cap_add", None),
        ("container_name", None),
        ("env_file", None),
        ("network_mode", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_service_is_contained(service: composition.Service, setting: str, value: object) -> None:
    assert service.body.get(setting) == value


@every((*LASTING, *ONE_SHOT))
def test_every_service_runs_as_a_user_without_rights_and_within_limits(service: composition.Service) -> None:
    assert service.body["user"] == ("999:999" if service.name in THEIRS else "10001:10001")
    assert service.body["mem_limit"]
    assert service.body["pids_limit"] > 0
    assert any(mount.startswith("/tmp:size=") for mount in service.body["tmpfs"])  # noqa: S108
    assert service.body["logging"]["options"]["max-size"]


@every((*LASTING, *ONE_SHOT))
def test_every_service_is_given_its_own_secrets_alone(service: composition.Service) -> None:
    assert set(service.body["secrets"]) == SECRETS[service.name]
    named = [value for name, value in service.environment.items() if name.endswith("_FILE")]
    assert {Path(value).name for value in named} <= SECRETS[service.name]
    assert all(value.startswith("/run/secrets/") for value in named)


def test_no_password_is_in_the_files() -> None:
    for file in ("docker-compose.yml", "docker-compose.cpu.yml", "Dockerfile"):
        text = (REPOSITORY / file).read_text()
        assert "://imagemill:" not in text
        assert "requirepass" not in text
    for service in SERVICES.values():
        assert not [name for name in service.environment if "PASSWORD" in name and not name.endswith("_FILE")]
        assert not {
            f"{PREFIX}{name}" for name in ("BROKER_URL", "DATABASE_URL", "FLOWER_BASIC_AUTH", "WEBHOOK_TOKEN")
        } & set(service.environment)


def test_only_what_people_and_label_studio_call_has_a_port_and_only_on_loopback() -> None:
    assert {name: service.body["ports"] for name, service in SERVICES.items() if "ports" in service.body} == {
        "http": ["127.0.0.1:8080:8080"],
        "flower": ["127.0.0.1:5555:5555"],
        "webhook": ["127.0.0.1:8090:8090"],
    }


def test_the_webhook_runs_only_where_it_is_asked_for_and_knows_no_ledger() -> None:
    assert SERVICES["webhook"].body["profiles"] == ["webhook"]
    assert [name for name, service in SERVICES.items() if "profiles" in service.body] == ["webhook", "cli"]
    assert "IMAGEMILL_DATABASE_URL_FILE" not in SERVICES["webhook"].environment
    assert "volumes" not in SERVICES["webhook"].body


def test_the_queue_and_the_ledger_are_on_a_network_without_a_way_out() -> None:
    assert composition.load("docker-compose.yml")["networks"]["inside"] == {"internal": True}
    assert all(SERVICES[name].body["networks"] == ["inside"] for name in THEIRS)


def mounted(service: composition.Service, target: str) -> list[bool]:
    """Give, for each mount of a folder of the host at `target`, whether it is read-only."""
    mounts = [mount for mount in service.body.get("volumes", ()) if isinstance(mount, dict)]
    return [mount["read_only"] for mount in mounts if mount["target"] == target]


def test_pictures_are_mounted_read_only_as_the_one_allowed_root() -> None:
    assert {name for name, service in SERVICES.items() if mounted(service, "/images") == [True]} == set(READERS)
    assert {
        name for name, service in SERVICES.items() if service.environment.get("IMAGEMILL_ALLOWED_ROOTS") == "/images"
    } == set(READERS)
    assert "store:/var/lib/imagemill/store:ro" in SERVICES["classify"].body["volumes"]


def test_who_decides_how_models_learn_reads_one_playbook_which_is_the_defaults_until_it_is_written() -> None:
    for name, service in SERVICES.items():
        named = service.environment.get("IMAGEMILL_PLAYBOOK")
        assert (named, mounted(service, "/etc/imagemill")) == (
            ("/etc/imagemill/playbook.toml", [True]) if name in PLAYBOOK_READERS else (None, [])
        )
    shipped = playbook.read(REPOSITORY / "deploy/playbook.toml", "default")
    assert shipped == playbook.Playbook(model="default")


@pytest.mark.parametrize("credentials", ["", "no-password", "user:two,parts"], ids=["none", "no password", "comma"])
def test_flower_refuses_to_start_open_or_with_a_password_it_would_misread(credentials: str) -> None:
    settings = Settings(flower_basic_auth=credentials)
    with pytest.raises(SettingsInvalid):
        processes.flower(parser.build().parse_args(SERVICES["flower"].command), settings)


def test_flower_listens_on_loopback_unless_told_otherwise() -> None:
    assert parser.build().parse_args(["flower"]).address == "127.0.0.1"


# ---------------------------------------------------------------- lasting


@every(LASTING)
def test_what_lasts_restarts_and_tells_its_health(service: composition.Service) -> None:
    assert service.body["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service.body["healthcheck"])


@every(("intake", "classify", "learn", "upkeep", "beat"))
def test_a_worker_that_stands_still_is_ill_within_a_minute(service: composition.Service) -> None:
    checked = service.body["healthcheck"]
    forgiven_s = parser.build().parse_args(service.health[3:]).within
    assert forgiven_s + checked["retries"] * composition.seconds(checked["interval"]) <= 60


@every(("intake", "classify", "learn", "upkeep", "beat"))
def test_a_worker_waits_for_redis_postgres_and_the_migration(service: composition.Service) -> None:
    assert service.body["depends_on"] == {
        "redis": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


def test_classify_may_finish_its_task_before_it_is_killed() -> None:
    assert SERVICES["classify"].grace_s > app.HARD_LIMIT_S
    assert all(SERVICES[name].grace_s < app.HARD_LIMIT_S for name in LASTING if name != "classify")


def test_learn_may_give_its_run_back_before_it_is_killed() -> None:
    # A batch, or a decode that is under way, and a write of the ledger; then a heartbeat that is waited for.
    assert SERVICES["learn"].grace_s >= stack.GRACE_S


def test_classify_may_load_its_model_before_it_is_called_ill() -> None:
    assert composition.seconds(SERVICES["classify"].body["healthcheck"]["start_period"]) > app.START_LIMIT_S


@every(ON_DEVICE)
def test_what_computes_reserves_a_gpu_and_the_cpu_file_takes_that_back(service: composition.Service) -> None:
    [device] = service.body["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "1", "capabilities": ["gpu"]}
    assert service.environment["IMAGEMILL_DEVICE"] == "cuda"
    override = composition.load("docker-compose.cpu.yml")["services"]
    ours = override[service.name]
    assert ours["environment"]["IMAGEMILL_DEVICE"] == "cpu"
    assert "resources" not in (ours["deploy"] or {})
    assert set(override) == set(ON_DEVICE)


def test_without_a_gpu_as_many_classify_workers_start_as_share_the_cores() -> None:
    classify = composition.load("docker-compose.cpu.yml")["services"]["classify"]
    assert classify["deploy"] == {"replicas": classify["environment"]["IMAGEMILL_PROCESSES"]}


# ---------------------------------------------------------------- in step with the code


@every((*OURS, *ONE_SHOT))
def test_the_command_line_knows_the_command(service: composition.Service) -> None:
    assert parser.build().parse_args(service.command).handler


@every(OURS)
def test_the_command_line_knows_the_health_check(service: composition.Service) -> None:
    if service.name in ASKED_OVER_HTTP:
        compile(service.health[2], "health check", "exec")
        return
    assert service.health[:3] == ["python", "-m", "worker"]
    asked = parser.build().parse_args(service.health[3:])
    assert (asked.handler, asked.role) == ("processes:health", service.name)


@every((*OURS, *ONE_SHOT))
def test_the_settings_know_every_variable(service: composition.Service, secrets: Path) -> None:
    ours = {name: value for name, value in service.environment.items() if name.startswith(PREFIX)}
    settings = Settings.from_env({name: value.replace("/run/secrets", str(secrets)) for name, value in ours.items()})
    assert settings.broker_url == (secrets / Path(ours[f"{PREFIX}BROKER_URL_FILE"]).name).read_text().strip()
    assert settings.home == Path("/tmp/imagemill").resolve()  # noqa: S108


def test_the_documented_commands_make_every_secret_closed_to_others_and_open_to_containers(secrets: Path) -> None:
    assert {file.name for file in secrets.iterdir()} == set().union(*SECRETS.values())
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in secrets.iterdir()} == {0o644}
    named = composition.load("docker-compose.yml")["secrets"]
    assert {file["file"] for file in named.values()} == {"${SECRETS_DIR:-./secrets}/" + name for name in named}


def test_other_variables_are_those_of_the_postgres_image_alone() -> None:
    others = {n for s in SERVICES.values() for n in s.environment if not n.startswith(PREFIX)}
    assert others == {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE"}


# ---------------------------------------------------------------- the image


def test_the_image_runs_our_program_without_a_shell_as_the_compose_files_user() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["python", "-m", "worker"]' in lines
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert composition.image_environment()["PYTHONDONTWRITEBYTECODE"] == "1"
    Settings.from_env(composition.image_environment())


def test_the_image_holds_what_runs_and_neither_tests_nor_bench() -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {"pyproject.toml", "constraints.txt", "db", "pipeline", "worker"}
    copied = {
        name
        for line in (REPOSITORY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in shlex.split(line)[1:-1]
    }
    assert copied == allowed
