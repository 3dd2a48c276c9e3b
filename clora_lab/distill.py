"""A compressed net that learns from the dense one: its hidden states, block by block, and its logits.

The loss of a batch is ``(1 - s) CE + s (H + K)`` with the share s of the teacher's part,

    H = 1/L  sum_l  sum (h_l - h*_l)^2 / sum (h*_l)^2        (starred: the teacher's)
    K = T^2  KL(softmax(z* / T) || softmax(z / T))

where CE is the cross-entropy of the labels, h_l the states after block l, z the logits and T a temperature.
K: Hinton, Vinyals and Dean 2015 (arXiv:1503.02531). H is in the manner of Jiao et al. 2020, TinyBERT
(arXiv:1909.10351); as a compressed net has the original's shape, no map between the two widths is learned.

`keras.distillation.Distiller` (Keras 3.12) would run the compressed net twice a step, once for its output
and once for its states, and looks for layers in the outermost model alone, where KerasHub's blocks are not.
"""

from __future__ import annotations

import keras
from keras import ops

from clora_lab import _checks


class Distilled(keras.Model):
    """Trains a student on what its teacher says; called outside of training it is the student.

    Compile it with the labels' loss at the weight that `label_weight` gives, and fit it; the student's layers
    are trained in place.

    Args:
        student: a functional model x -> {"logits": (batch, classes), "hidden": a list of arrays of one shape
            each}, for instance `bert_states` of a compressed classifier.
        teacher: the same of the original; it is not trained.
        share: s, in (0, 1]; 1 asks for no label.
        temperature: T, positive.

    Raises:
        ValueError: a share or temperature out of range, or nets with other numbers of states.

    Example:
        >>> x = keras.Input((4,))
        >>> def net(width):
        ...     hidden = keras.layers.Dense(3, activation="relu")(keras.layers.Dense(width)(x))
        ...     return keras.Model(x, {"logits": keras.layers.Dense(2)(hidden), "hidden": [hidden]})
        >>> distilled = Distilled(net(1), net(8))
        >>> tuple(distilled(ops.ones((5, 4))).shape)
        (5, 2)
    """

    def __init__(self, student, teacher, share: float = 1.0, temperature: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.share = _checks.real("share", share, 1e-6, 1.0)
        self.temperature = _checks.real("temperature", temperature, 1e-3, 1e3)
        ours, theirs = len(student.output["hidden"]), len(teacher.output["hidden"])
        if ours != theirs or not ours:
            raise ValueError(
                "`student` and `teacher` must give the same number of hidden states, at least one. "
                f"Received: {ours} and {theirs}. Take states of the same blocks."
            )
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False
        self.built = True

    @property
    def label_weight(self) -> list[float]:
        """What `compile` takes as `loss_weights`."""
        return [1.0 - self.share]

    def call(self, x, training=False):
        if not training:
            return self.student(x, training=False)["logits"]
        ours, theirs = self.student(x, training=True), self.teacher(x, training=False)
        errors = [
            ops.sum(ops.square(own - wanted)) / ops.maximum(ops.sum(ops.square(wanted)), 1e-12)
            for own, wanted in zip(ours["hidden"], theirs["hidden"], strict=True)
        ]
        error = sum(errors) / len(errors)
        wanted = ops.log_softmax(theirs["logits"] / self.temperature)
        found = ops.log_softmax(ours["logits"] / self.temperature)
        divergence = ops.mean(ops.sum(ops.exp(wanted) * (wanted - found), axis=-1))
        self.add_loss(self.share * (error + self.temperature**2 * divergence))
        return ours["logits"]


def bert_states(net) -> keras.Model:
    """A BERT classifier as a functional model that gives its states too, on the very same layers.

    Args:
        net: a `keras_hub.models.BertTextClassifier`, compressed or not.

    Returns:
        Token ids, segments and padding mask -> {"logits": (batch, classes), "hidden": for each block the
        states of its tokens, shape (batch, length, width), zeros where the text is padded}.
    """
    backbone = net.backbone
    present = ops.expand_dims(ops.cast(backbone.input["padding_mask"], "float32"), -1)
    blocks = [backbone.get_layer(f"transformer_layer_{i}").output for i in range(backbone.num_layers)]
    pooled = net.get_layer("classifier_dropout")(backbone.output["pooled_output"])
    return keras.Model(
        backbone.input,
        {"logits": net.get_layer("logits")(pooled), "hidden": [block * present for block in blocks]},
    )
