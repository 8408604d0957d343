"""Whether this machine can log in to Weights & Biases, without importing wandb."""

import configparser
import netrc
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

SERVER = "https://api.wandb.ai"


def server() -> str:
    """The address of the W&B server in use: WANDB_BASE_URL, else what ``wandb login --host`` stored."""
    if named := os.environ.get("WANDB_BASE_URL"):
        return named
    stored = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    with suppress(configparser.Error):
        stored.read(folder / "settings")
    return str(stored.get("default", "base_url", fallback=SERVER))


def has_key() -> bool:
    """Whether there is a key: WANDB_API_KEY, an identity token, or the entry that ``wandb login`` makes in .netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        entry = netrc.netrc(path).authenticators(urlsplit(server()).netloc)
    except (OSError, netrc.NetrcParseError):
        return False
    return bool(entry and entry[2])
