"""Apps that are signed out of by msal_logout_middleware: a small one for each framework, and the demo."""
