"""What every store must do, as pytest classes to subclass: yours gives a `store` fixture.

Stores may be sync or async; an async `store` fixture runs in the event loop of its test.
"""

from .calls import Clock
from .rows import TokenCacheRowsContract
from .token_caches import TokenCacheStoreContract
from .whole_store import StoreContract

__all__ = ["Clock", "StoreContract", "TokenCacheRowsContract", "TokenCacheStoreContract"]
