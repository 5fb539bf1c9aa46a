"""Every route: its path, method, permission, body policy, handler and description."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from mig.api import forms
from mig.api.actions import ActionResource
from mig.api.agents import AgentResource
from mig.api.apikeys import LIST_PARAMETERS, ApiKeyResource
from mig.api.audit import AuditResource
from mig.api.commands import CommandResource
from mig.api.dashboard import DashboardResource
from mig.api.descriptions import (
    COLLECTION_PARAMETERS,
    JSON,
    STYLE_SHEET,
    TEXT,
    Answer,
    Description,
    describe_change,
)
from mig.api.docs import FILE_TYPES, FILES, DocsResource
from mig.api.health import HealthResource
from mig.api.home import HomeResource
from mig.api.investigators import FINGERPRINT_PATTERN, InvestigatorResource
from mig.api.route import BodyPolicy, define_get, define_post, define_record_get
from mig.api.search import SearchResource
from mig.errors import ConflictError, ForbiddenError, HttpVersionError, NotFoundError
from mig.formats import FORMATS
from mig.hypermedia import urls
from mig.limits import Limits
from mig.model.action import Action
from mig.model.agent import Agent
from mig.model.apikey import ApiKey
from mig.model.audit import AuditEntry
from mig.model.command import Command
from mig.model.investigator import Investigator
from mig.model.permissions import ANY_CALLER, Permission
from mig.model.search import SearchParameters
from mig.search.audit import AUDIT_PARAMETERS
from mig.search.parameters import PARAMETERS
from mig.search.records import REPORT_RECORDS, TYPE_RECORDS

DEFAULT_LIMITS: Final = Limits()

ROUTES: Final = (
    define_get(
        urls.HOME,
        None,
        HomeResource,
        HomeResource.get_home,
        Description(meaning="links to the resources and forms, and the queries"),
    ),
    define_get(
        urls.STYLE,
        None,
        HomeResource,
        HomeResource.get_style,
        Description(meaning="the style sheet of the pages for browsers", answer=STYLE_SHEET),
    ),
    define_get(
        urls.HEARTBEAT,
        None,
        HomeResource,
        HomeResource.get_heartbeat,
        Description(meaning="confirms that the service runs"),
        is_limited=False,
    ),
    define_get(
        urls.READINESS,
        None,
        HealthResource,
        HealthResource.get_readiness,
        Description(
            meaning="`ok`, or 503 `failing` while the database cannot be used, as plain text, for"
            " load balancers",
            answer=TEXT,
            failure=replace(TEXT, status=HTTPStatus.SERVICE_UNAVAILABLE),
        ),
        is_limited=False,
    ),
    define_get(
        urls.DASHBOARD,
        Permission.DASHBOARD,
        DashboardResource,
        DashboardResource.get_dashboard,
        Description(
            meaning="counts of agents and endpoints (with the data names of clients of 2014 and of"
            " 2017), and the last ten actions",
            parameters=COLLECTION_PARAMETERS,
            answer=Answer(records=(Action,), other_data="a count of agents or endpoints"),
        ),
    ),
    define_record_get(
        urls.ACTION,
        Permission.ACTION,
        ActionResource,
        ActionResource.get_action,
        Action,
        "an action, its signers and counters, links to its first 1,000 commands",
    ),
    define_record_get(
        urls.AGENT, Permission.AGENT, AgentResource, AgentResource.get_agent, Agent, "an agent"
    ),
    define_record_get(
        urls.COMMAND,
        Permission.COMMAND,
        CommandResource,
        CommandResource.get_command,
        Command,
        "a command with its action, agent and results",
    ),
    define_record_get(
        urls.INVESTIGATOR,
        Permission.INVESTIGATOR,
        InvestigatorResource,
        InvestigatorResource.get_investigator,
        Investigator,
        "an investigator with permissions and public key",
    ),
    define_get(
        urls.PUBLIC_KEY,
        None,
        InvestigatorResource,
        InvestigatorResource.get_public_key,
        Description(
            meaning="the armored key of an active investigator, as plain text",
            path_parameters={
                "fingerprint": {"type": "string", "pattern": f"^{FINGERPRINT_PATTERN.pattern}$"}
            },
            answer=TEXT,
            errors=(NotFoundError,),
        ),
    ),
    define_get(
        urls.CLIENT_ADDRESS,
        None,
        HomeResource,
        HomeResource.get_client_address,
        Description(meaning="the client's address, as plain text", answer=TEXT),
    ),
    define_get(
        urls.OPENAPI,
        None,
        DocsResource,
        DocsResource.get_openapi,
        Description(meaning="the description of the API in OpenAPI 3.1", answer=JSON),
    ),
    define_get(
        urls.DOCS,
        None,
        DocsResource,
        DocsResource.get_page,
        Description(
            meaning="the same for people, a page that can also send requests",
            answer=Answer(formats=(), media_types=("text/html; charset=utf-8",)),
        ),
    ),
    define_get(
        urls.DOCS_FILE,
        None,
        DocsResource,
        DocsResource.get_file,
        Description(
            meaning="a file of that page",
            path_parameters={"file": {"type": "string", "enum": list(FILES)}},
            answer=Answer(formats=(), media_types=FILE_TYPES),
            errors=(NotFoundError,),
        ),
    ),
    define_get(
        urls.SEARCH,
        Permission.SEARCH,
        SearchResource,
        SearchResource.run_search,
        Description(
            meaning="actions, commands, agents or investigators, or a report over commands",
            parameters=PARAMETERS,
            answer=Answer(
                formats=tuple(FORMATS),
                records=(*TYPE_RECORDS.values(), *REPORT_RECORDS.values(), SearchParameters),
                headers=("Content-Disposition", "X-Limit", "X-Total-Count"),
            ),
            errors=(ForbiddenError, NotFoundError, HttpVersionError),
        ),
        is_streamed=True,
    ),
    define_get(
        urls.AUDIT,
        Permission.INVESTIGATOR_UPDATE,
        AuditResource,
        AuditResource.get_audit,
        Description(
            meaning="who changed what, and which requests were refused, the newest first",
            parameters=AUDIT_PARAMETERS,
            answer=Answer(
                formats=tuple(FORMATS),
                records=(AuditEntry,),
                headers=("Content-Disposition", "X-Limit"),
            ),
            errors=(NotFoundError,),
        ),
    ),
    define_get(
        urls.CREATE_ACTION,
        Permission.ACTION_CREATE,
        ActionResource,
        ActionResource.get_template,
        Description(meaning="the form of a new action"),
    ),
    define_get(
        urls.CREATE_INVESTIGATOR,
        Permission.INVESTIGATOR_CREATE,
        InvestigatorResource,
        InvestigatorResource.get_template,
        Description(meaning="the form of a new investigator"),
    ),
    define_get(
        urls.UPDATE_INVESTIGATOR,
        Permission.INVESTIGATOR_UPDATE,
        InvestigatorResource,
        InvestigatorResource.get_update_template,
        Description(meaning="the form that changes an investigator"),
    ),
    define_get(
        urls.API_KEY,
        ANY_CALLER,
        ApiKeyResource,
        ApiKeyResource.get_keys,
        Description(
            meaning="the API keys of the caller, or of everybody, without their secrets",
            parameters=LIST_PARAMETERS,
            answer=Answer(records=(ApiKey,)),
            errors=(NotFoundError,),
        ),
    ),
    define_get(
        urls.CREATE_API_KEY,
        ANY_CALLER,
        ApiKeyResource,
        ApiKeyResource.get_create_template,
        Description(meaning="the form of a new API key"),
    ),
    define_get(
        urls.REVOKE_API_KEY,
        ANY_CALLER,
        ApiKeyResource,
        ApiKeyResource.get_revoke_template,
        Description(meaning="the form that revokes an API key"),
    ),
    define_post(
        urls.CREATE_ACTION,
        Permission.ACTION_CREATE,
        BodyPolicy.ACTION,
        ActionResource,
        ActionResource.create_action,
        Description(
            meaning="accepts a signed action",
            form=forms.CREATE_ACTION,
            answer=describe_change(HTTPStatus.ACCEPTED, Action),
            errors=(ConflictError,),
        ),
    ),
    define_post(
        urls.CREATE_INVESTIGATOR,
        Permission.INVESTIGATOR_CREATE,
        BodyPolicy.KEY,
        InvestigatorResource,
        InvestigatorResource.create_investigator,
        Description(
            meaning="adds an investigator",
            form=forms.CREATE_INVESTIGATOR,
            answer=describe_change(HTTPStatus.CREATED, Investigator),
            errors=(ConflictError,),
        ),
    ),
    define_post(
        urls.UPDATE_INVESTIGATOR,
        Permission.INVESTIGATOR_UPDATE,
        BodyPolicy.KEY,
        InvestigatorResource,
        InvestigatorResource.update_investigator,
        Description(
            meaning="changes the status, permissions or API keys of an investigator",
            form=forms.UPDATE_INVESTIGATOR,
            answer=describe_change(HTTPStatus.OK, Investigator),
            errors=(NotFoundError, ConflictError),
        ),
    ),
    define_post(
        urls.CREATE_API_KEY,
        ANY_CALLER,
        BodyPolicy.KEY,
        ApiKeyResource,
        ApiKeyResource.create_key,
        Description(
            meaning="makes an API key, whose text is only in this answer",
            form=forms.CREATE_API_KEY,
            answer=describe_change(HTTPStatus.CREATED, ApiKey),
            errors=(NotFoundError, ConflictError),
        ),
    ),
    define_post(
        urls.REVOKE_API_KEY,
        ANY_CALLER,
        BodyPolicy.KEY,
        ApiKeyResource,
        ApiKeyResource.revoke_key,
        Description(
            meaning="revokes an API key, for ever",
            form=forms.REVOKE_API_KEY,
            answer=Answer(records=(ApiKey,)),
            errors=(NotFoundError, ConflictError),
        ),
    ),
)
ADMIN_ROUTES: Final = (
    define_get(
        "/healthz",
        None,
        HealthResource,
        HealthResource.get_liveness,
        Description(meaning="that the process answers", answer=TEXT),
        is_limited=False,
    ),
    define_get(
        "/readyz",
        None,
        HealthResource,
        HealthResource.get_detailed_readiness,
        Description(meaning="the state of every part", answer=JSON),
        is_limited=False,
    ),
    define_get(
        "/version",
        None,
        HealthResource,
        HealthResource.get_version,
        Description(meaning="the version of the program", answer=JSON),
    ),
    define_get(
        "/metrics",
        None,
        HealthResource,
        HealthResource.get_metrics,
        Description(meaning="the metrics of the daemon", answer=TEXT),
    ),
)
"""The routes of the admin listener, which only the host's operators can reach."""
ROOT: Final = define_get(
    "/",
    None,
    HomeResource,
    HomeResource.redirect_to_home,
    Description(meaning="leads to the home document", answer=Answer(status=HTTPStatus.FOUND)),
)
"""The route of the root of the server, if the API is below it."""
