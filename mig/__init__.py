"""The MIG API: it takes signed actions and serves everything MIG knows back."""

__version__ = "1.0.0"
