"""Sessions, one module for each framework: who is signed in, found and deleted through the framework's own code.

1. No session format and no cryptography is ours: the framework reads its cookie, we look at what it read.
2. A read changes nothing: no record, no lifetime, no cookie, and no hook of a request runs.
3. What the framework does not accept is no session: `None`. An engine that cannot be asked raises, always.
4. Nothing is imported from a framework outside its own module.
"""
