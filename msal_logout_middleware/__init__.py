"""Signs users of MSAL web apps out completely: sessions ended, token caches emptied, provider told."""

__version__ = "0.1.0.dev0"
