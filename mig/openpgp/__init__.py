"""Parsing of OpenPGP packets and certificates; gpg verifies them, in :mod:`mig.signing`."""
