"""The settings of a `DeeplySupervised`, which may be assigned between two steps."""

import math

from zoo.losses import check_share, check_temperature
from zoo.objectives.compiled_losses import check_activations, check_take_logits
from zoo.objectives.head_arguments import threshold_by_layer, weight_by_layer
from zoo.objectives.settings import LiveSettings, check_counted

_BY_LAYER = ("companion_weight", "decoder_weight", "threshold")


class DeepSettings(LiveSettings):
    """The part of a `DeeplySupervised` that checks its weights and its compiled losses."""

    def scheduled(self):
        """Return the settings that may be schedules."""
        return [*self.companion_weight.values(), *self.decoder_weight.values()]

    def settings(self):
        """Return what a step depends on, and may have changed since the last one."""
        by_layer = [getattr(self, name) for name in _BY_LAYER]
        copies = [dict(each) if isinstance(each, dict) else each for each in by_layer]
        return copies, self.soft_weight, self.temperature, self.synergy

    def check_settings(self):
        """Raise ValueError if a setting was assigned that a step cannot use."""
        for name in _BY_LAYER:
            if not isinstance(getattr(self, name), dict):
                raise ValueError(
                    f"{name} is {{name of a layer: number}} once the model is made; received "
                    f"{getattr(self, name)!r}. Assign to one layer: model.{name}[layer] = number."
                )
        weight_by_layer("companion_weight", self.companion_weight, self.companions)
        weight_by_layer("decoder_weight", self.decoder_weight, self.decoders)
        thresholds = threshold_by_layer(dict(self.threshold) or None, self.companions)
        self.check_soft_targets()
        check_counted(self, self.scheduled())
        used = [f"{layer}_gate" for layer in thresholds]
        used += [f"{layer}_soft_target_error" for layer in self.companions if self.soft_weight]
        used += ["synergy_loss"] * bool(self.synergy)
        if missing := [name for name in used if name not in self._logs]:
            raise ValueError(
                f"{self.name!r} was made without what logs {', '.join(missing)}. Give it the "
                "threshold, or a soft_weight or synergy above 0, when you make it."
            )

    def check_soft_targets(self):
        """Raise ValueError for a share, a temperature or a synergy out of range."""
        check_share("soft_weight", self.soft_weight)
        check_temperature(self.temperature)
        if not (math.isfinite(self.synergy) and self.synergy >= 0):
            raise ValueError(f"synergy is a finite number >= 0; received {self.synergy!r}.")
        if self.synergy and not self.companions:
            raise ValueError(
                f"synergy is {self.synergy}, and the output has no companion to learn from. Give "
                "companions, or leave synergy out."
            )

    def check_compiled(self, output):
        """Raise ValueError if a loss takes no logits, or does not suit the soft targets."""
        for loss in (self.loss, self.companion_loss):
            if loss is not None:
                check_take_logits(self, loss)
        if self.soft_weight or self.synergy:
            advice = "Give DeeplySupervised soft_weight=0 and synergy=0."
            check_activations(self.loss, {"output": ("softmax", output.shape[-1])}, advice)
