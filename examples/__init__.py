"""Apps that are signed out of by msal_logout_middleware: two of ten lines, and the demo."""
