# Made from sdk/aio/resources/enrollment_tokens.py by scripts/fix: change it there.
"""Enrolment tokens."""

from collections.abc import Sequence
from typing import cast

from cmdop_appliance.sdk.resources.resource import Resource
from cmdop_appliance.sdk.types import EnrollmentToken


class EnrollmentTokens(Resource):
    """Tokens that let machines join."""

    def create(
        self,
        *,
        ttl_ms: int | None = None,
        max_uses: int | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> EnrollmentToken:
        """A new token; its secret is in `token`, here and never again.

        `max_uses` machines may join with it within `ttl_ms`: None is one, and an hour. They start
        with `tags`; None: with those of the key that asks.
        """
        body = {"ttl": ttl_ms, "max_uses": max_uses, "tags": None if tags is None else [*tags]}
        made = self._answer(
            "POST", "/enrollment-tokens", body=body, idempotency_key=idempotency_key
        )
        return cast("EnrollmentToken", made)
