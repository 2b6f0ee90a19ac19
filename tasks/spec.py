"""The base of all parameter models: frozen, and strict about keys, so that a typing error is never a default."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Spec(BaseModel):
    """Raises pydantic's ValidationError, which names the field, for anything that cannot be meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic reads true as 1, and YAML reads `on` and `yes` as true: a rate of 1 that nobody asked for."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            told = f"expected no true or false here, found {str(value).lower()}"
            raise ValueError(f"{told} (as YAML reads yes, no, on, off: quote words)")
        return value
