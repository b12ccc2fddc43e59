"""The version of quantkit, alone: nobody needs the API to know it."""

__version__ = "0.1.0"
