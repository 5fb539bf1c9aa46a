"""Where the service is and who calls it: files, then the environment, then options."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mig.migctl.configuration import Configuration, load_configuration
from mig.migctl.exits import ExitStatus, UsageError
from tests.support.migctl import call_migctl

MIGRC = """\
[api]
    url = "https://mig.example.com/api/v1/"
    skipverifycert = on ; this is a test
[gpg]
    home = "~/keys"
    keyid = "E60892BB9BD89A69F759A1A0A3D652173B763E8F"
[targets]
    macro = allonline:status='online'
"""


def write_config(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / ".config" / "mig" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_of_the_original_client_is_read(home: Path) -> None:
    (home / ".migrc").write_text(MIGRC.replace(" ; this is a test", ""))
    assert load_configuration({}) == Configuration(
        url="https://mig.example.com/api/v1/",
        skipverifycert=True,
        home=str(home / "keys"),
        keyid="E60892BB9BD89A69F759A1A0A3D652173B763E8F",
    )


def test_the_later_one_of_files_environment_and_options_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".migrc").write_text('[api]\nurl = "https://1"\n[gpg]\nkeyid = "AAAA"\n')
    assert load_configuration({}).url == "https://1"
    write_config(home, '[api]\nurl = "https://2"\napikey = "a key"\n')
    assert load_configuration({}).url == "https://2"
    monkeypatch.setenv("MIG_URL", "https://3")
    monkeypatch.setenv("MIG_API_KEY", "another key")
    assert load_configuration({}).url == "https://3"
    found = load_configuration({"url": "https://4", "apikey": None})
    assert found == Configuration(url="https://4", apikey="another key", keyid="AAAA")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_with_a_key_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    path = write_config(home, '[api]\nurl = "https://2"\napikey = "a key"\n', mode)
    with pytest.raises(UsageError, match="others can read the API key in") as refused:
        load_configuration({})
    assert refused.value.hint == f"chmod 600 {path}"
    path.write_text('[api]\nurl = "https://2"\n')
    assert load_configuration({}).url == "https://2"


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a key\n")
    file.chmod(0o644)
    ended = call_migctl("status", "--url", "http://localhost:1", "--api-key-file", str(file))
    assert ended.status == ExitStatus.USAGE
    assert f"others can read the API key in {file}\nhint: chmod 600" in ended.errors


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[api]\nurll = 'x'\n", "urll is not a key of [api]", "did you mean url?"),
        ("[server]\n", "server is not a section", "known: api, gpg"),
        ("api = 1\n", "api must be a section, [api]", ""),
        ("[api]\nurl = 1\n", "url must be a string, not 1", ""),
        ("[api]\nskipverifycert = 'on'\n", "skipverifycert must be true or false, not 'on'", ""),
        ("[api\n", "is not TOML", ""),
    ],
)
def test_a_mistake_in_the_configuration_is_named(
    home: Path, text: str, message: str, hint: str
) -> None:
    path = write_config(home, text)
    with pytest.raises(UsageError) as refused:
        load_configuration({})
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert refused.value.hint == hint


def test_a_flag_of_the_original_file_must_be_one(home: Path) -> None:
    (home / ".migrc").write_text("[api]\nskipverifycert = perhaps\n")
    with pytest.raises(UsageError, match="skipverifycert must be on or off, not 'perhaps'"):
        load_configuration({})


def test_a_configuration_is_written_that_only_its_owner_can_read(home: Path) -> None:
    (home / ".migrc").write_text(MIGRC.replace(" ; this is a test", ""))
    ended = call_migctl("config", "init", "--url", "https://new", MIG_API_KEY='a "key"')
    path = home / ".config" / "mig" / "config.toml"
    assert (ended.status, ended.errors) == (0, f"migctl: wrote {path}\nhint: try: migctl status\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(path.read_text()) == {
        "api": {"url": "https://new", "apikey": 'a "key"', "skipverifycert": True},
        "gpg": {
            "home": str(home / "keys"),
            "keyid": "E60892BB9BD89A69F759A1A0A3D652173B763E8F",
        },
    }
    again = call_migctl("config", "init", "--url", "https://newer")
    assert again.status == ExitStatus.USAGE
    assert "is there already" in again.errors
    assert call_migctl("config", "init", "--url", "https://newer", "--force").status == 0
    assert load_configuration({}).url == "https://newer"


def test_a_configuration_keeps_every_character(home: Path) -> None:
    key = "J\u00f6rg \U0001f600 <joerg@example.net>"
    assert call_migctl("config", "init", "--url", "https://new", "--key", key).status == 0
    assert load_configuration({}).keyid == key


def test_a_service_is_needed() -> None:
    ended = call_migctl("status")
    assert ended.status == ExitStatus.USAGE
    assert ended.errors == (
        "migctl: which service? There is no URL\n"
        "hint: give --url, set MIG_URL, or run `migctl config init`\n"
    )
