"""The version of the package, for those of its modules that the package itself imports."""

__version__ = "1.0.0"
