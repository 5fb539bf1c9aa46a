"""The forms of the API: the fields of each body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mig.hypermedia import templates
from mig.hypermedia.document import Template
from mig.web.forms import parse_form
from mig.web.request import Request


@dataclass(frozen=True, kw_only=True)
class Form:
    """The fields of a body.

    :param template: the fields that a client is told about.
    :param optional: those that may be missing, in the template or beside it.
    :param object_fields: those whose value may also be a JSON object.
    :param whole: the one of them that may also be the whole body.
    """

    template: Template
    optional: Sequence[str] = ()
    object_fields: Sequence[str] = ()
    whole: str = ""

    def parse(self, request: Request) -> dict[str, Any]:
        """Return the fields of a request's body.

        :raises InvalidInputError: as :func:`mig.web.forms.parse_form` does.
        """
        return parse_form(
            request.content_type,
            request.content.getvalue(),
            self.template,
            object_fields=self.object_fields,
            optional=self.optional,
        )


CREATE_ACTION: Final = Form(template=templates.ACTION, object_fields=("action",), whole="action")
"""The form of a new action, which :mod:`mig.actions.parser` parses, maybe in another process."""
CREATE_INVESTIGATOR: Final = Form(
    template=templates.INVESTIGATOR,
    object_fields=("permissions",),
    optional=("permissions", "publickey", "isadmin"),
)
UPDATE_INVESTIGATOR: Final = Form(
    template=templates.INVESTIGATOR_UPDATE,
    object_fields=("permissions",),
    optional=("permissions", "status", "apikey"),
)
CREATE_API_KEY: Final = Form(
    template=templates.API_KEY_CREATION,
    object_fields=("permissions",),
    optional=("investigatorid", "permissions", "expires"),
)
REVOKE_API_KEY: Final = Form(template=templates.API_KEY_REVOCATION)
