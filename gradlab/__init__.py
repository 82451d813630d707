"""Gradlab's server: settings, store, hub, GPU monitor, portal and command line. It never runs learner code."""

__version__ = "0.1.0"
