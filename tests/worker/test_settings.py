"""The environment is read once: what makes no sense is refused with a sentence, nothing is guessed."""

from dataclasses import fields
from pathlib import Path

import pytest

from worker import settings
from worker.settings import MAX_SOCKET_NAME, NUM_CORES, Settings, SettingsInvalid, embedded_socket

SAID = {
    "unknown, with a near one": (
        "BROKER",
        "redis://x",
        "IMAGEMILL_BROKER is not a setting; did you mean IMAGEMILL_BROKER_URL?",
    ),
    "a letter missing": ("BATCHSIZE", "8", "IMAGEMILL_BATCHSIZE is not a setting; did you mean IMAGEMILL_BATCH_SIZE?"),
    "unknown": ("ZZZ", "1", "IMAGEMILL_ZZZ is not a setting."),
    "an unknown secret": ("ZZZ_FILE", "/x", "IMAGEMILL_ZZZ_FILE is not a setting."),
    "zero": ("MAX_ATTEMPTS", "0", "IMAGEMILL_MAX_ATTEMPTS='0' makes no sense: give a whole number of at least 1."),
    "a fraction": (
        "SHARD_SIZE",
        "1.5",
        "IMAGEMILL_SHARD_SIZE='1.5' makes no sense: give a whole number",
    ),
    "empty": ("MAX_ATTEMPTS", "", "IMAGEMILL_MAX_ATTEMPTS='' makes no sense: give a whole number of at least 1."),
    "no number": ("LEASE_S", "soon", "IMAGEMILL_LEASE_S='soon' makes no sense: give a number of seconds above 0."),
    "NaN": ("SWEEP_S", "nan", "IMAGEMILL_SWEEP_S='nan' makes no sense: give a number of seconds above 0."),
    "infinite": ("SITTING_S", "inf", "IMAGEMILL_SITTING_S='inf' makes no sense: give a number of seconds above 0."),
    "negative": ("LEASE_S", "-1", "IMAGEMILL_LEASE_S='-1' makes no sense: give a number of seconds above 0."),
    "not a choice": ("PRECISION", "fp16", "IMAGEMILL_PRECISION='fp16' makes no sense: give one of auto, fp32, bf16."),
    "bad model": ("MODELS", "cats,Dogs", "IMAGEMILL_MODELS='cats,Dogs' makes no sense: give model names of lower-case"),
    "no model": ("MODELS", " , ", "IMAGEMILL_MODELS=' , ' makes no sense: give model names of lower-case letters"),
    "relative root": (
        "ALLOWED_ROOTS",
        "/a,photos",
        "IMAGEMILL_ALLOWED_ROOTS='/a,photos' makes no sense: give",
    ),
    "root without TLS": (
        "ALLOWED_ROOTS",
        "/a,http://host",
        "IMAGEMILL_ALLOWED_ROOTS='/a,http://host' makes no sense: give https://",
    ),
    "no broker URL": ("BROKER_URL", "user:secret@host", "IMAGEMILL_BROKER_URL makes no sense: give a redis://"),
    "no ledger URL": (
        "DATABASE_URL",
        "mysql://u:secret@h/d",
        "IMAGEMILL_DATABASE_URL makes no sense: give a sqlite",
    ),
    "a host by its address": ("CALLBACK_HOSTS", "10.0.0.1", "IMAGEMILL_CALLBACK_HOSTS='10.0.0.1' makes no sense: give"),
    "a host with a folder": (
        "CALLBACK_HOSTS",
        "a.b/c",
        "IMAGEMILL_CALLBACK_HOSTS='a.b/c' makes no sense: give DNS names",
    ),
    "any host": ("CALLBACK_HOSTS", "*", "IMAGEMILL_CALLBACK_HOSTS='*' makes no sense: give DNS names"),
    "no port": ("CALLBACK_HOSTS", "a.b:65536", "IMAGEMILL_CALLBACK_HOSTS='a.b:65536' makes no sense: give DNS names"),
    "no signing secret": ("CALLBACK_SECRET", "secret", "IMAGEMILL_CALLBACK_SECRET makes no sense: give whsec_ and"),
    "no such secret": (
        "BROKER_URL_FILE",
        "/gone",
        "IMAGEMILL_BROKER_URL_FILE names a file that cannot be read: No",
    ),
    "nobody's home": ("HOME", "~nobody-here/mill", "IMAGEMILL_HOME=~nobody-here/mill: there is no such home folder;"),
}


@pytest.mark.parametrize(("name", "value", "sentence"), SAID.values(), ids=SAID)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_env({f"IMAGEMILL_{name}": value})
    assert str(refused.value).startswith(sentence)
    assert "secret@" not in str(refused.value)


def test_variables_of_others_are_left_alone() -> None:
    assert Settings.from_env({"PATH": "/bin", "IMAGEMILL_TEST_POSTGRES": "wheel"}) == Settings.from_env({})


def test_everything_of_the_embedded_stack_lies_in_its_home(tmp_path: Path) -> None:
    settings = Settings.from_env({"IMAGEMILL_HOME": str(tmp_path / "a" / ".." / "mill")})
    home = tmp_path.resolve() / "mill"
    assert settings.home == home
    assert settings.database_url == f"sqlite:///{home}/ledger.sqlite"
    assert settings.store == f"file://{home}/store"
    assert settings.inline_store == f"file://{home}/store/inline"
    assert settings.is_embedded


@pytest.mark.parametrize("content", ["redis://:pa@host/0\n", "  redis://:pa@host/0"])
def test_a_secret_may_come_in_a_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    settings = Settings.from_env({"IMAGEMILL_BROKER_URL_FILE": str(file), "IMAGEMILL_HOME": str(tmp_path)})
    assert settings.broker_url == "redis://:pa@host/0"
    assert not settings.is_embedded


@pytest.mark.parametrize("name", [".", "raw"], ids=["a folder", "not UTF-8"])
def test_a_secret_that_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "raw").write_bytes(b"\xff")
    with pytest.raises(SettingsInvalid, match="IMAGEMILL_BROKER_URL_FILE names a file that"):
        Settings.from_env({"IMAGEMILL_BROKER_URL_FILE": str(tmp_path / name)})


GIVEN = {
    "HOME": "/srv/mill",
    "BROKER_URL": "redis://:pa@host:6379/0",
    "DATABASE_URL": "postgresql+psycopg://u:pa@host/db",
    "STORE": "s3://bucket/mill",
    "ALLOWED_ROOTS": "/photos,s3://bucket/photos",
    "MODELS": "cats,dogs",
    "LEASE_S": "4.5",
    "BATCH_SIZE": "8",
    "FLOWER_BASIC_AUTH": "user:pa",
}


@pytest.mark.parametrize("given", [GIVEN, {"HOME": "/srv/mill"}, {}], ids=["many", "one", "none"])
def test_another_process_reads_the_same_settings(given: dict[str, str]) -> None:
    settings = Settings.from_env({f"IMAGEMILL_{name}": value for name, value in given.items()})
    assert Settings.from_env(settings.as_env()) == settings


def test_every_setting_says_what_it_is_about() -> None:
    assert all(item.metadata["about"] for item in fields(Settings))


def test_a_home_too_deep_for_a_socket_gets_one_of_its_own_in_the_temporary_folder(tmp_path: Path) -> None:
    deep, other = (tmp_path / ("x" * 80) / name for name in ("one", "two"))
    assert embedded_socket(Path("/srv/mill")) == Path("/srv/mill/redis.sock")
    assert len(str(embedded_socket(deep))) <= MAX_SOCKET_NAME
    assert embedded_socket(deep) == embedded_socket(deep) != embedded_socket(other)
    assert Settings(home=deep).resolved().is_embedded


def test_settings_move_with_their_home(tmp_path: Path) -> None:
    moved = Settings(home=tmp_path / "a", batch_size=3).resolved().at(tmp_path / "b")
    assert moved == Settings(home=tmp_path / "b", batch_size=3).resolved()


def test_a_broker_of_ones_own_stays_when_settings_move(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "a", broker_url="redis://host/0").resolved()
    assert settings.at(tmp_path / "b").broker_url == "redis://host/0"


@pytest.mark.parametrize(
    ("given", "has_gpu", "num"),
    [
        ({}, False, min(4, NUM_CORES)),
        ({}, True, 1),
        ({"device": "cpu"}, True, min(4, NUM_CORES)),
        ({"device": "cuda:1"}, False, 1),
        ({"processes": 3}, True, 3),
    ],
)
def test_a_stack_has_a_classify_worker_for_each_core_up_to_four_and_for_a_gpu_one(
    given: dict[str, object], has_gpu: bool, num: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "GPU", tmp_path if has_gpu else tmp_path / "none")
    shared = Settings(**given).shared_out()
    assert (shared.processes, shared.num_cores) == (num, max(1, NUM_CORES // num))


def test_a_worker_started_by_itself_takes_all_cores() -> None:
    assert Settings().num_cores == NUM_CORES
