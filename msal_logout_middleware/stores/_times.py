"""How long the shipped stores keep what says nothing of it itself, in seconds."""

TOKEN_CACHE_LIFETIME_SECONDS = 90 * 86_400.0
"""A token cache that nobody has written for so long is of no use: Entra's refresh tokens live for 90 days."""

REMOVED_ROW_SECONDS = 3_600.0
"""A removed token cache keeps its version, so that a save by a request that began before fails."""

CLOCK_STEP_SECONDS = 3_600.0
"""By how much the clock may be set ahead and back again without harm.

Expired marks and claims are kept for so long, without effect; and a lease that began later than that is void.
"""
