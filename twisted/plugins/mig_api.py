"""The twistd plugin: ``twistd mig-api``."""

from twisted.application.service import ServiceMaker

mig_api = ServiceMaker(
    "mig-api", "mig.service.tap", "The MIG API: investigate machines over REST.", "mig-api"
)
