"""A diffusers model that loads complete weights or none."""

from typing import Any, Self

from diffusers.models.modeling_utils import ModelMixin

from preprocessing.errors import UserError


class StrictModelMixin(ModelMixin):
    """`ModelMixin` whose `from_pretrained` refuses missing weights.

    diffusers logs a warning and initialises them at random.
    """

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str, output_loading_info: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a model as `ModelMixin.from_pretrained` does.

        Raises:
            UserError: Weights are missing.
        """
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, output_loading_info=True, **kwargs
        )
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise UserError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} weights of a"
                f" {cls.__name__}, such as {missing[0]}",
                "download or save it again",
            )
        return (model, info) if output_loading_info else model
