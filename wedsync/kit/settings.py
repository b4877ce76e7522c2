"""Read settings, once at the entrance of each program.

Names follow `WEDSYNC_<NAME>`; nested groups are joined by `__` (`WEDSYNC_VENDORS__STRIPE__API_KEY`). The standard
`TEMPORAL_*` variables and TOML profile are read by `temporalio.envconfig`, not here.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Valid on a laptop, refused everywhere else.
LOCAL_SECRET = "wedsync-local-only-not-a-secret"  # noqa: S105
LOCAL_CODEC_KEY = "local:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"


def local_webhook_secret(vendor: str) -> str:
    """Make `vendor`'s webhook secret where none is set, on a laptop only: `whsec_` and base64, as Svix writes them."""
    return "whsec_" + base64.b64encode(f"wedsync-local-webhook-{vendor}".encode()).decode()


class VendorSettings(BaseModel):
    """One vendor's account, `WEDSYNC_VENDORS__<NAME>__...`."""

    model_config = ConfigDict(extra="forbid")
    base_url: str = ""
    api_key: SecretStr = SecretStr("")
    account_id: str = ""
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    #: Several active secrets are separated by commas.
    webhook_secret: SecretStr = SecretStr("")
    #: The token that Meta sends in its URL to prove our address; empty: one of the webhook secrets, as it once was.
    verify_token: SecretStr = SecretStr("")
    #: How often its own list of events is compared with its webhooks: 0 never, None as is usual for it.
    reconcile_every_minutes: Annotated[
        int | None, Field(ge=0, le=1440), BeforeValidator(lambda secrets: None if secrets == "" else secrets)
    ] = None

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """List the active webhook secrets."""
        return tuple(part for part in (s.strip() for s in self.webhook_secret.get_secret_value().split(",")) if part)


class Settings(BaseSettings):
    """All settings that come from the environment."""

    model_config = SettingsConfigDict(env_prefix="WEDSYNC_", env_nested_delimiter="__", extra="ignore")

    environment: Literal["local", "staging", "production"] = "local"
    state_dir: Path = Path(".wedsync")
    #: The public URL of our API, for links and vendors' callbacks.
    api_url: str = "http://127.0.0.1:8080"
    api_key: SecretStr = SecretStr("")
    api_port: int = 8080
    api_host: str = "127.0.0.1"
    sandbox_port: int = 0
    #: How long the sandbox waits before it sends a webhook by itself.
    sandbox_webhook_delay_ms: int = 50
    #: `postgresql://...`; every session takes the role `wedsync_app`, whoever logs in.
    database_url: str = ""
    #: The login that owns the tables and migrates; defaults to `database_url`.
    database_owner_url: str = ""
    database_pool_size: int = 10
    #: The pepper of API keys' HMACs.
    api_key_pepper: SecretStr = SecretStr(LOCAL_SECRET)
    #: Signs links that go to vendors without an API.
    link_secret: SecretStr = SecretStr(LOCAL_SECRET)
    #: `id:hex,id:hex`: 256-bit AES keys of the payload codec; the first encrypts, all decrypt.
    codec_keys: SecretStr = SecretStr(LOCAL_CODEC_KEY)
    #: Origins allowed to call the codec endpoint (the Temporal UI), comma-separated.
    codec_origins: str = ""
    #: Organizations, comma-separated, whose keys run the platform: its vendors, unassigned events, the codec.
    operator_organizations: str = ""
    temporal_ui_url: str = ""
    request_max_bytes: int = 1_048_576
    #: Subscriptions may name http URLs on this machine; with WEDSYNC_ENVIRONMENT=local only.
    webhooks_to_loopback: bool = True
    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"
    #: Where the worker serves its Prometheus metrics; 0: nowhere.
    worker_metrics_port: int = 0
    worker_workflow_slots: int = 100
    worker_activity_slots: int = 50
    #: Calls to vendors mostly wait: more of them than of other activities run at once.
    worker_vendor_slots: int = 200
    #: The most of them to one vendor, so that a slow one leaves the others room.
    worker_calls_per_vendor: int = 100
    #: The same in an API process, for requests that the gateway passes on.
    api_calls_per_vendor: int = 100
    worker_critical_slots: int = 20
    #: A step is shown as running once its call takes so long; 0: never.
    running_shown_after_seconds: float = 0.15
    worker_cached_workflows: int = 2000
    #: Comma-separated queue names; empty: all of them.
    worker_queues: str = ""
    worker_build_id: str = ""
    #: Whether the worker program probes the vendors' health by itself.
    health_probes: bool = True
    #: `WEDSYNC_PROBE_DATABASES__<NAME>`: URLs of databases that health checks of kind `database` may name.
    probe_databases: dict[str, SecretStr] = {}
    graceful_shutdown_seconds: float = 20.0
    vendors: dict[str, VendorSettings] = {}

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> Settings:
        if self.environment == "local":
            return self
        weak = [
            f"WEDSYNC_{name.upper()}"
            for name in ("api_key_pepper", "link_secret", "codec_keys")
            if getattr(self, name).get_secret_value() in (LOCAL_SECRET, LOCAL_CODEC_KEY, "")
        ]
        if weak:
            raise ValueError(f"set {', '.join(weak)}: the default is only for WEDSYNC_ENVIRONMENT=local")
        return self

    @property
    def is_local(self) -> bool:
        """Tell whether this is a laptop's or a test's environment."""
        return self.environment == "local"

    def is_operator(self, organization_id: str) -> bool:
        """Tell whether the organization runs the platform; on a laptop every one does."""
        return self.is_local or organization_id in {name.strip() for name in self.operator_organizations.split(",")}

    def vendor(self, name: str) -> VendorSettings:
        """Return the settings of vendor `name`, empty when none are given."""
        return self.vendors.get(name, VendorSettings())

    def vendor_webhook_secrets(self, name: str) -> tuple[str, ...]:
        """Return the active webhook secrets of vendor `name`; the local default when none are set, on a laptop only."""
        secrets = self.vendor(name).webhook_secrets
        if secrets or not self.is_local:
            return secrets
        return (local_webhook_secret(name),)
