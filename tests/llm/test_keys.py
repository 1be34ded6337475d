"""Where keys come from, that they do not print, and what counts as a secret."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest

from toka_cli.errors import Unavailable
from toka_cli.llm.keys import MASK, Secret, has_key, keyring_lookup, mask, provider_environment, providers_of, secrets_of


def revealed(environment: dict[str, str], providers: set[str] | None = None, **more: object) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in provider_environment(environment, providers, **more).items()}  # type: ignore[arg-type]


def test_a_secret_does_not_print_or_travel() -> None:
    secret = Secret("sk-very-secret")
    assert secret.reveal() == "sk-very-secret"
    assert "very" not in f"{secret} {secret!r} {secret:>40} %s" % secret + str([secret]) + str({"key": secret})
    assert not hasattr(secret, "__dict__")
    assert secret
    assert not Secret("")
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_only_what_models_need_is_given() -> None:
    environment = {
        "ANTHROPIC_API_KEY": "a" * 20,
        "OPENAI_API_KEY": "o" * 20,
        "OPENAI_ORGANIZATION": "org-1",
        "GITHUB_TOKEN": "ghp_" + "x" * 20,
        "AWS_SECRET_ACCESS_KEY": "w" * 20,
        "DATABASE_PASSWORD": "p" * 20,
        "HTTPS_PROXY": "http://proxy:3128",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "PYTHONPATH": "/tmp",
        "LD_PRELOAD": "/tmp/evil.so",
        "LLM_MODEL": "gpt-4o",
        "MISTRAL_API_KEY": "",
    }
    shared = {"HTTPS_PROXY", "SSL_CERT_FILE"}
    assert set(revealed(environment, {"anthropic"})) == {"ANTHROPIC_API_KEY"} | shared
    assert set(revealed(environment, {"openai"})) == {"OPENAI_API_KEY", "OPENAI_ORGANIZATION"} | shared
    assert set(revealed(environment, {"bedrock"})) == {"AWS_SECRET_ACCESS_KEY"} | shared
    # Nobody said which: keys of models, and no cloud's credentials, which open more than models.
    assert set(revealed(environment)) == {"ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_ORGANIZATION"} | shared
    assert set(revealed(environment, {"github"})) == shared


@pytest.mark.parametrize(
    ("models", "provider", "base_url", "expected"),
    [
        (["anthropic/claude-sonnet-4-5"], None, None, {"anthropic"}),
        (["anthropic/x", "openai/y"], None, None, {"anthropic", "openai"}),
        (["gpt-4o"], None, None, None),
        (["gpt-4o"], "openai", None, {"openai"}),
        (["some-model"], None, "http://127.0.0.1:1/v1", {"openai"}),
        (["meta-llama/Llama-3"], None, "http://127.0.0.1:1/v1", {"openai"}),
        ([], None, None, None),
        (["x"], "a-provider-of-tomorrow", None, None),
    ],
)
def test_providers_by_names_alone(models: list[str], provider: str | None, base_url: str | None, expected: set[str] | None) -> None:
    assert providers_of(models, provider, base_url) == expected


def test_a_key_can_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("  sk-from-a-file \n")
    assert revealed({"OPENAI_API_KEY_FILE": str(path)}) == {"OPENAI_API_KEY": "sk-from-a-file"}
    # The variable itself wins; an empty one does not count.
    assert revealed({"OPENAI_API_KEY_FILE": str(path), "OPENAI_API_KEY": "sk-direct"})["OPENAI_API_KEY"] == "sk-direct"
    assert revealed({"OPENAI_API_KEY_FILE": str(path), "OPENAI_API_KEY": ""})["OPENAI_API_KEY"] == "sk-from-a-file"
    # Other variables that end so are files for somebody else, and so are those of providers that nobody asks.
    assert revealed({"DATABASE_PASSWORD_FILE": str(path)}) == {}
    assert revealed({"OPENAI_API_KEY_FILE": str(path)}, {"anthropic"}) == {}
    token = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(path)}
    assert revealed(token, {"bedrock"}) == token


BAD_FILES = {"missing": None, "empty": b"", "blank": b" \n", "two lines": b"one\ntwo\n", "not text": b"\xff\xfe", "huge": b"x" * 70_000}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_key_file_that_holds_no_key_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unavailable) as caught:
        provider_environment({"OPENAI_API_KEY_FILE": str(path)})
    assert caught.value.code == "key_file"
    assert str(path) in caught.value.message
    assert "OPENAI_API_KEY_FILE" in (caught.value.hint or "")


def test_the_keyring_is_asked_last_and_only_for_what_is_wanted() -> None:
    asked: list[str] = []

    def lookup(name: str) -> str | None:
        asked.append(name)
        return {"OPENAI_API_KEY": "sk-of-the-keyring"}.get(name)

    assert revealed({"ANTHROPIC_API_KEY": "direct-key"}, {"openai", "anthropic"}, lookup=lookup) == {
        "ANTHROPIC_API_KEY": "direct-key",
        "OPENAI_API_KEY": "sk-of-the-keyring",
    }
    assert asked == ["OPENAI_API_KEY"]


def test_a_real_keyring_and_a_broken_one() -> None:
    keyring = pytest.importorskip("keyring")
    backend_module = pytest.importorskip("keyring.backend")
    errors = pytest.importorskip("keyring.errors")

    class Ours(backend_module.KeyringBackend):  # type: ignore[misc, name-defined]
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            if username == "MISTRAL_API_KEY":
                raise errors.KeyringLocked("locked")
            return f"{service}:{username}"

        def set_password(self, service: str, username: str, password: str) -> None:
            raise NotImplementedError

        def delete_password(self, service: str, username: str) -> None:
            raise NotImplementedError

    before = keyring.get_keyring()
    keyring.set_keyring(Ours())
    try:
        assert keyring_lookup()("OPENAI_API_KEY") == "toka:OPENAI_API_KEY"
        assert keyring_lookup()("MISTRAL_API_KEY") is None
    finally:
        keyring.set_keyring(before)


def test_without_the_extra_there_is_no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert keyring_lookup()("OPENAI_API_KEY") is None


def test_secrets_are_found_by_the_names_of_their_variables() -> None:
    environment = {
        "OPENAI_API_KEY": "sk-0123456789",
        "MY_APP_SECRET": "correct horse battery",
        "GITHUB_TOKEN": "ghp_abcdefgh",
        "PGPASSWORD": "hunter2hunter2",
        "MYSQL_PWD": "mysql-password",
        "AWS_ACCESS_KEY_ID": "AKIA0123456789",
        "npm_config__authToken": "npm_0123456789",
        "TLS_PRIVATE_KEY": "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----",
        "DATABASE_URL": "postgres://me:s3cret%2Fpass@db/x",  # toka: not a secret
    }
    found = secrets_of(environment)
    wanted = {"sk-0123456789", "correct horse battery", "ghp_abcdefgh", "hunter2hunter2", "mysql-password", "AKIA0123456789", "npm_0123456789", "s3cret/pass"}
    assert wanted <= set(found)
    assert {"MIIEvQIBADANBg", "kqhkiG9w0BAQEF"} <= set(found)
    assert found == sorted(found, key=lambda text: (-len(text), text))


def test_what_is_no_secret_is_not_masked() -> None:
    environment = {
        "PWD": "/home/me/project",
        "OLDPWD": "/home/me/other",
        "SSH_AUTH_SOCK": "/tmp/ssh-agent.1",
        "XAUTHORITY": "/home/me/.Xauthority",
        "OPENAI_API_KEY_FILE": "/run/secrets/openai",
        "TOKENIZERS_PARALLELISM": "false-and-long",
        "KEYBOARD_LAYOUT": "de-latin1-nodeadkeys",
        "SHORT_TOKEN": "abc",
        "SOME_TOKEN": "undefined",
        "MONKEY": "bananas-are-good",
        "GIT_AUTHOR_NAME": "Somebody Else",
        "HOMEPAGE": "https://example.org/path",
    }
    assert secrets_of(environment) == []


def test_keys_from_elsewhere_are_masked_too(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-from-a-file")
    environment = {"OPENAI_API_KEY_FILE": str(path)}
    assert secrets_of(environment, provider_environment(environment)) == ["sk-from-a-file"]


def test_masking_leaves_no_rest_of_a_longer_secret() -> None:
    environment = {"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefgh-and-more"}
    found = secrets_of(environment)
    assert mask("x abcdefgh-and-more y abcdefgh z", found) == f"x {MASK} y {MASK} z"
    assert mask("nothing here", found) == "nothing here"


def test_the_environment_of_this_machine_can_be_read() -> None:
    assert all(len(secret) >= 8 for secret in secrets_of(os.environ))


def test_which_names_are_a_key_of_a_provider() -> None:
    assert has_key(["OPENAI_API_KEY"], "openai")
    assert not has_key(["OPENAI_ORGANIZATION", "ANTHROPIC_API_KEY"], "openai")
    assert has_key(["GOOGLE_API_KEY"], "gemini")
    assert has_key(["NANO_GPT_API_KEY"], "nano-gpt")
