"""What all objects of the tree share."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator


class Model(BaseModel):
    """A value inside an object.

    Explicit nulls are as good as absent: nsxlib sends many. So are empty values of fields that are not supported here:
    they ask for nothing.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    keeps_empty: ClassVar[bool] = False  # whether empty strings are shown

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: value
            for key, value in values.items()
            if value is not None and (value not in ("", [], {}) or key in cls._known_names())
        }

    @classmethod
    def _known_names(cls) -> set[str]:
        fields = cls.model_fields
        return fields.keys() | {field.alias for field in fields.values() if field.alias}

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """NSX leaves out what nobody gave; here that is None or an empty string, and no tags."""
        shown: dict[str, Any] = handler(self)
        absent = {key for key, value in shown.items() if value in (None, "") or (key == "tags" and not value)}
        if not absent or self.keeps_empty:
            return shown
        needed = {key for key in absent if (field := type(self).model_fields.get(key)) and field.is_required()}
        return {key: value for key, value in shown.items() if key not in absent or key in needed}


class Tag(Model):
    """A pair; either may be empty, and is shown then too."""

    keeps_empty: ClassVar[bool] = True

    scope: str = Field(default="", max_length=128)
    tag: str = Field(default="", max_length=256)


class Intent(Model):
    """An object of the tree. The server sets everything that begins with an underscore, and the paths.

    `kind` is the API's `resource_type`. `references` names the fields that hold paths of other objects: they must
    exist, and what is referred to can not be deleted.
    """

    kind: ClassVar[str]
    references: ClassVar[tuple[str, ...]] = ()

    resource_type: str = ""
    id: str = ""
    display_name: str = Field(default="", max_length=255)
    description: str = Field(default="", max_length=1024)
    tags: list[Tag] = Field(default=[], max_length=30)
    path: str = ""
    relative_path: str = ""
    parent_path: str = ""
    unique_id: str = ""
    marked_for_delete: bool = False
    overridden: bool = False
    revision: int = Field(default=0, alias="_revision")
    create_time: int = Field(default=0, alias="_create_time", description="ms since the epoch")
    create_user: str = Field(default="", alias="_create_user")
    last_modified_time: int = Field(default=0, alias="_last_modified_time", description="ms since the epoch")
    last_modified_user: str = Field(default="", alias="_last_modified_user")
    system_owned: bool = Field(default=False, alias="_system_owned")
    protection: str = Field(default="NOT_PROTECTED", alias="_protection")

    def referred(self) -> list[str]:
        """Paths of the objects this one refers to, `ANY` and literal addresses left out."""
        found: list[str] = []
        for name in self.references:
            value = getattr(self, name)
            found += [value] if isinstance(value, str) else list(value or ())
        return [path for path in found if path.startswith("/")]

    def shape(self) -> dict[str, Any]:
        """The JSON object that the API answers."""
        return self.model_dump(mode="json", by_alias=True)
