"""Members of stored JSON, as text in SQL."""

from __future__ import annotations

_LONE_SURROGATES = (
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def build_member_sql(column: str, key_sql: str) -> str:
    """Return SQL for the member ``key_sql`` of a json column as text.

    No odd row can make it fail, and a value that is not a string becomes its JSON text.

    ``->>`` fails when U+0000 or a lone surrogate is anywhere in the document
    (docs/decisions/0012). In such documents the SQL replaces each by U+FFFD.
    """
    # escaped backslashes are replaced first: one of them may precede the characters "u0000"
    odd = rf"\\u0000|{_LONE_SURROGATES}"
    return (
        rf"(case when strpos({column}::text, '\u') > 0"  # which most have not: a regex takes longer
        rf" and {column}::text ~ '\\u(0000|[dD][89a-fA-F])'"
        rf" then regexp_replace(replace({column}::text, '\\', '\u005c'), '{odd}', '\\ufffd', 'g')"
        "::json"
        f" else {column} end ->> {key_sql})"
    )
