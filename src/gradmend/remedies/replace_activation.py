"""Put an activation that fits the network in another's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.activation_choice import SHALLOW, Choice, worth_trying
from gradmend.theory.drawing import causes
from gradmend.theory.places import Place, guilty, own_layer, places, times_used

_RECTIFIERS = ("relu", "leaky_relu", "prelu", "relu6")


@remedy(
    treats=[
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
        "init-gain-too-small",
    ],
    changes=[Change.INITIALISATION, Change.ACTIVATION],  # keep="parameters" forbids it, too
)
def replace_activation(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Replace the guilty activations, together with the initialisation the new one needs.

    What it does:
        Puts another activation where one was found guilty, and nowhere else: up to 20 layers in
        a row ReLU, and ELU; beyond, tanh, ELU up to 50 layers and SELU up to 30 linear ones;
        LeakyReLU of slope 0.1 and PReLU or ELU where ReLU units had died; GELU and SiLU in
        transformers. The layers in front start at the new one's gain: He's for the
        rectifiers, the critical gain at this depth for smooth ones (all orthogonal), LeCun's
        normal weights for SELU.

    Why it should work:
        All of them pass a slope near one where they are on, so weights of ordinary size keep the
        gradient. Plain tanh nets can be made isometric at any depth, ReLU nets only in mirrored
        pairs (looks-linear-init). A leaky unit always has some gradient to come back by.

    What it predicts:
        The whole model's gradient changes by less than two decades, by less than four where other
        activations stay as they are; nothing where weights that stay are too small besides.

    When it refuses:
        The activations are functional: then it shows the change of the source. They are the best
        there is already; or weights drawn too small are to blame, and the activation is not; or
        the finding follows from another cause.

    What it costs:
        The function class changes; trained weights are lost. PReLU has one new parameter a
        layer, which joins the optimizer and wants no weight decay (He et al. 2015).

    References:
        Glorot, Bordes, Bengio 2011; He et al. 2015; Maas, Hannun, Ng 2013; Clevert et al. 2016;
        Klambauer et al. 2017; Hendrycks and Gimpel 2016; Pennington, Schoenholz, Ganguli 2017
        (ReLU cannot be isometric where weights are independent).
    """
    every, own = list(places(trace)), causes(findings)
    if findings and not own:
        reason = f"{findings[0].name} follows from {findings[0].explained_by}: treat that"
        yield Refusal(remedy="replace-activation", finding=findings[0].name, reason=reason)
        return
    found = guilty((f for f in own if f.name != "init-gain-too-small"), every)
    names = {finding.name for finding in own}
    if not found and trace.chain_depth > SHALLOW:
        # The weights are to blame, and other weights heal them; but not so many rectifiers.
        weak = guilty((f for f in own if f.name == "init-gain-too-small"), every)
        weak = [p for p in weak if p.facts.function in _RECTIFIERS]
        found = weak if len(weak) >= SHALLOW else []
    stuck = [place for place in found if not place.facts.replaceable]
    options = _options(trace, found, names) if found and not stuck else ()
    if stuck:
        yield _source_change(findings, trace, stuck[0], names)
    if not options:
        yield Refusal(
            remedy="replace-activation",
            finding=findings[0].name if findings else "",
            reason=_why_not(found, stuck),
        )
        return
    uses = times_used(trace)
    # A frozen layer keeps its weights: somebody froze it to keep them. Behind a norm they count
    # for nothing.
    layers = list(
        {
            place.weights.parameter: place.weights
            for place in found
            if own_layer(trace, place, uses) and place.weights.trainable and not place.normed
        }.values()
    )
    small = guilty((f for f in own if f.name == "init-gain-too-small"), every)
    treated = {id(place) for place in found}
    stay_small = any(id(place) not in treated for place in small)
    for option in options:
        places_ = [p for p in found if p.facts.function != option.function]
        edits = [
            Edit(
                kind="replace_module",
                targets=tuple(dict.fromkeys(place.act.module for place in places_)),
                args={"module": option.module, "everywhere": True, **option.options},
            )
        ]
        if layers:
            draw = Edit.initialise(
                [(w.parameter, w.bias) for w in layers],
                [option.gain] * len(layers),
                bias_stds=[option.bias_std] * len(layers),
            )
            edits.append(replace(draw, args={**draw.args, "scheme": option.scheme}))
        yield Prescription(
            edits=tuple(edits),
            # What the others lose, which nobody accused, they go on losing.
            predictions=()
            if stay_small
            else (Prediction.gradient_kept(2 if len(found) == len(every) else 4),),
            changes=(Change.INITIALISATION, Change.ACTIVATION) if layers else (Change.ACTIVATION,),
            reason=f"{len(edits[0].targets)} activations become {option.module}",
        )


def _options(trace: Trace, found: list[Place], names: set[str]) -> tuple[Choice, ...]:
    functions = [place.facts.function for place in found]
    return worth_trying(
        max(set(functions), key=functions.count),
        max(1, trace.chain_depth),
        convolutional=any(place.weights.kind == "convolution" for place in found),
        died="dead-relu" in names,
        transformer=any("Attention" in m.kind or "Transformer" in m.kind for m in trace.modules),
    )


def _why_not(found: list[Place], stuck: list[Place]) -> str:
    if stuck:
        return f"{stuck[0].act.name} is called as a function: change it in the source"
    if not found:
        return "no activation is to blame: weights of another size heal this one"
    return f"the activations are {found[0].facts.function} already"


def _source_change(
    findings: tuple[Finding, ...], trace: Trace, place: Place, names: set[str]
) -> Advice:
    """What to write instead of a function's call."""
    options = _options(trace, [place], names)
    new = options[0].function if options else "relu"
    old = place.facts.function
    return Advice(
        remedy="replace-activation",
        finding=findings[0].name,
        text=(
            f"call torch.nn.functional.{new} instead of {old}, and draw the layers in front of"
            f" it with {'He' if 'relu' in new else 'its critical'} gain"
        ),
        before=f"x = F.{old}(x)",
        after=f"x = F.{new}(x)",
        source=place.act.source,
    )
