"""Small documents that are made at once: as Collection+JSON, or as pages for browsers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from mig.access.caller import Caller
from mig.api.responder import refuse_parameters
from mig.formats.collection_json import MEDIA_TYPES, VERSION, write_document
from mig.hypermedia.document import Collection, Error, FieldSchemas, Item, Link, Query, Template
from mig.hypermedia.urls import Urls
from mig.web.request import Request

FORM_REFUSAL: Final = (
    "This form cannot be sent from this page: a browser would send your API key also when a page of"
    " another site makes it send a form, so the key is accepted for reading only. Send the fields"
    " with a program, and the key in the header X-MIGAPIKEY."
)


def answer_collection(
    request: Request,
    *,
    href: str | None = None,
    items: Sequence[Item] | None = None,
    links: Sequence[Link] | None = None,
    queries: Sequence[Query] | None = None,
    template: Template | None = None,
    error: Error | None = None,
    schemas: Mapping[str, FieldSchemas] | None = None,
    form_refusal: str = "",
    status: HTTPStatus = HTTPStatus.OK,
) -> bytes:
    """Answer with a document that is made at once, whatever format was chosen before.

    :param href: its address; by default that of the request.
    :param schemas: by the relation of a query, the schemas of what it takes.
    :param form_refusal: why the template cannot be sent from a page; empty if it can.
    """
    href = request.build_url() if href is None else href
    if not request.is_page_wanted:
        request.choose_media_type(MEDIA_TYPES)
        document = write_document(
            href, items=items, links=links, queries=queries, template=template, error=error
        )
        return request.prepare_response(document, status)
    from mig.formats.html import encode_document

    request.describe_page()
    collection = Collection(
        version=VERSION,
        href=href,
        items=items,
        links=links,
        queries=queries,
        template=template,
        error=error,
    )
    page = encode_document(
        Urls(request.site.base), collection, schemas=schemas or {}, refusal=form_refusal
    )
    return request.prepare_response(page, status)


def answer_template(
    request: Request, caller: Caller, template: Template, *, refusal: str = ""
) -> bytes:
    """Answer with a form to fill in.

    :param refusal: why it cannot be sent while there is no authentication; empty if it can.
    """
    refuse_parameters(request)
    if caller.investigator_id is not None:
        refusal = FORM_REFUSAL
    return answer_collection(request, template=template, form_refusal=refusal)
