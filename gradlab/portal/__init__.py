"""The portal: pages for learners and instructors, and the API that lab notebooks talk to. A service of the Hub."""

from gradlab.portal.app import create_app
from gradlab.portal.hubauth import HubClient

__all__ = ["HubClient", "create_app"]
