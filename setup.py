"""The entry point of setuptools; setup.cfg has the metadata."""

from setuptools import setup

setup()
