"""Where the keys of providers come from: variables, files that variables name (`OPENAI_API_KEY_FILE`), and the system's keyring where the extra is installed.

In: an environment. Out: what a provider process may be given of it, as values that do not print, and the list of texts to mask. Never writes, never
asks a person.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from toka_cli.errors import Unavailable

MIN_SECRET_CHARACTERS: Final = 8
"""Shorter values are not masked: they would be found in ordinary words."""

MAX_KEY_FILE_BYTES: Final = 64 << 10
KEYRING_SERVICE: Final = "toka"
MASK: Final = "[secret]"

# What each provider reads (litellm's documentation of providers). Names end in _ where everything that begins so belongs to it.
_BY_PROVIDER: Final[dict[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_",),
    "openai": ("OPENAI_",),
    "azure": ("AZURE_",),
    "azure_ai": ("AZURE_",),
    "bedrock": ("AWS_",),
    "sagemaker": ("AWS_",),
    "vertex_ai": ("GOOGLE_", "VERTEX_", "VERTEXAI_", "GCLOUD_", "CLOUDSDK_"),
    "gemini": ("GEMINI_", "GOOGLE_API_KEY"),
    "ollama": ("OLLAMA_",),
    "ollama_chat": ("OLLAMA_",),
    "huggingface": ("HF_TOKEN", "HUGGINGFACE_"),
    "together_ai": ("TOGETHERAI_", "TOGETHER_AI_", "TOGETHER_API_KEY"),
    "fireworks_ai": ("FIREWORKS_", "FIREWORKS_AI_", "FIREWORKSAI_"),
    "watsonx": ("WATSONX_", "WX_"),
    "hosted_vllm": ("HOSTED_VLLM_",),
    "lm_studio": ("LM_STUDIO_",),
    "nvidia_nim": ("NVIDIA_NIM_", "NVIDIA_API_KEY"),
    "perplexity": ("PERPLEXITYAI_", "PERPLEXITY_"),
    "cohere": ("COHERE_", "CO_API_KEY"),
    "xai": ("XAI_",),
    # Only the key: GITHUB_TOKEN is for other things.
    "github": ("GITHUB_API_KEY",),
    **{name: (f"{name.upper()}_",) for name in (
        "ai21", "anyscale", "baseten", "cerebras", "cloudflare", "databricks", "deepinfra", "deepseek", "friendliai", "groq", "mistral", "moonshot",
        "novita", "openrouter", "replicate", "sambanova", "snowflake", "volcengine", "voyage", "xinference", "zai",
    )},
}  # fmt: skip
# What every provider may need: the way through a proxy, certificates, and the place of a cloud's own files.
_FOR_ALL: Final = frozenset({
    "HOME", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CERTIFICATE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
})  # fmt: skip
# Of a provider that nobody named, only what speaks of models: cloud credentials open more than that.
_OF_UNNAMED: Final = ("_API_KEY", "_API_BASE", "_BASE_URL", "_API_VERSION", "_ORGANIZATION", "HF_TOKEN")
# Not every *_FILE is a key: AWS_WEB_IDENTITY_TOKEN_FILE is read by the cloud's own library.
_FROM_FILES: Final = ("_API_KEY", "_SECRET_ACCESS_KEY", "_ACCESS_KEY_ID", "HF_TOKEN")
_FROM_KEYRING: Final = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "AZURE_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")

_SECRET_NAME: Final = re.compile(
    r"secret|passw(?:or)?d|passphrase|token|credential|bearer|api_?key|(?:^|_)key(?:s|_id)?(?:$|_)|private_?key|access_?key|_pwd$|_pat$|_dsn$|cookie",
    re.IGNORECASE,
)
# Names that say a place or a switch, not a value to keep.
_PLACE_NAME: Final = re.compile(r"_(?:file|path|dir|sock|socket|home|url|uri|host|port|name|enabled|type|count|limit)$|^token(?:izers|ize)_", re.IGNORECASE)
_NOT_SECRET: Final = frozenset({"undefined", "disabled", "required", "not-needed", "not_needed", "placeholder", "optional", "unlimited"})


class Secret:
    """A text that does not print, compare by accident, or travel: only `reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def provider_environment(
    environment: Mapping[str, str], providers: Collection[str] | None = None, *, lookup: Callable[[str], str | None] | None = None
) -> dict[str, Secret]:
    """What a provider process is given: keys and settings of `providers` (by litellm's names; None: keys of all that are known), proxies and certificates.

    A variable wins over its `_FILE`, that over the keyring (`lookup`, such as `keyring_lookup()`). Raises Unavailable when a file that is named cannot be read.
    """
    prefixes = _prefixes(providers)

    def wanted(name: str) -> bool:
        return _belongs(name, prefixes) and (providers is not None or name.endswith(_OF_UNNAMED))

    found = {name: Secret(value) for name, value in environment.items() if value and (name in _FOR_ALL or wanted(name))}
    for name, path in environment.items():
        key = name.removesuffix("_FILE")
        if key != name and path and key.endswith(_FROM_FILES) and wanted(key):
            found.pop(name, None)
            if key not in found:
                found[key] = Secret(_read(name, path))
    for key in _FROM_KEYRING:
        if lookup is not None and key not in found and wanted(key) and (value := lookup(key)):
            found[key] = Secret(value)
    return found


def keyring_lookup() -> Callable[[str], str | None]:
    """A look into the system's keyring (service `toka`, the variable's name as user). It finds nothing where the extra is not installed."""

    def lookup(name: str) -> str | None:
        try:
            import keyring
            import keyring.errors
        except ImportError:
            return None
        try:
            value: str | None = keyring.get_password(KEYRING_SERVICE, name)
        except (keyring.errors.KeyringError, OSError, RuntimeError):
            # A locked or missing keyring is the same as one without the key: preflight says which key is missing.
            return None
        return value

    return lookup


def has_key(names: Iterable[str], provider: str) -> bool:
    """True if one of these variables holds a key of this provider."""
    prefixes = _prefixes({provider})
    return any(_belongs(name, prefixes) and name.endswith(("_KEY", "_TOKEN")) for name in names)


def secrets_of(environment: Mapping[str, str], keys: Mapping[str, Secret] | None = None) -> list[str]:
    """Every text that must not be shown, longest first: values of variables whose names say so, passwords inside addresses, and `keys` from elsewhere."""
    found: set[str] = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
            found |= _parts(value)
        if "://" in value:
            found |= _parts(_password(value))
    for name, secret in (keys or {}).items():
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
            found |= _parts(secret.reveal())
    return sorted(found, key=lambda text: (-len(text), text))


def mask(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret replaced. `secrets` are longest first, so that none leaves a rest."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def providers_of(models: Iterable[str], provider: str | None, base_url: str | None) -> set[str] | None:
    """The providers that these models belong to by their names alone, or None when a name does not say."""
    found: set[str] = set()
    for model in models:
        head, slash, _ = model.partition("/")
        if slash and head in _BY_PROVIDER:
            found.add(head)
        elif provider or base_url:
            found.add(provider or "openai")
        else:
            return None
    return found if found and all(name in _BY_PROVIDER for name in found) else None


def _prefixes(providers: Collection[str] | None) -> tuple[str, ...]:
    chosen = _BY_PROVIDER if providers is None else providers
    return tuple(dict.fromkeys(prefix for name in chosen for prefix in _BY_PROVIDER.get(name, (f"{name.upper().replace('-', '_')}_",))))


def _belongs(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name.startswith(prefix) if prefix.endswith("_") else name == prefix for prefix in prefixes)


def _read(name: str, path: str) -> str:
    hint = f"{name} names a file that holds the key and nothing else; correct it, or set {name.removesuffix('_FILE')}"
    try:
        with open(os.path.expanduser(path), "rb") as file:  # noqa: PTH123, PTH111  one short read
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        value = data.decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise Unavailable(f"the key file {path} cannot be read: {why}", hint=hint, code="key_file") from None
    if not value or len(data) > MAX_KEY_FILE_BYTES or "\n" in value:
        raise Unavailable(f"the key file {path} does not hold one key", hint=hint, code="key_file")
    return value


def _parts(value: str) -> set[str]:
    """A value, and the lines of one that has several: each may turn up alone."""
    lines = {line.strip() for line in value.splitlines()} if "\n" in value else set()
    return {
        part
        for part in {value.strip(), *(line for line in lines if not line.startswith("-----"))}
        if len(part) >= MIN_SECRET_CHARACTERS and part.lower() not in _NOT_SECRET
    }


def _password(address: str) -> str:
    try:
        password = urlsplit(address).password or ""
    except ValueError:
        return ""
    return unquote(password)
