"""How a training begins with a speaker's network."""

from __future__ import annotations

from pathlib import Path

from talkhead.modules.training_module import TrainingModule
from talkhead.nets.renderer import Renderer
from talkhead.speaker.folder import FINE, damaged
from talkhead.speaker.schema import inside, load_net, read_json


def start_from(speaker: str | Path, module: TrainingModule) -> None:
    """Give a module the weights of a speaker's network instead of random ones.

    Of a speaker with two renderers it takes the one of the module's size, if there is one; a smaller one's weights are
    grown (`Renderer.weights_for`).

    Args:
        speaker: a pipeline's folder.
        module: about to be trained; its ``part`` says which network it has.

    Raises:
        FileNotFoundError: if the speaker holds no such network.
        ValueError: if its network is damaged, leads out of the folder or is built otherwise.
    """
    attribute, name = module.part
    net, root = getattr(module, attribute), Path(speaker)
    if not (root / name / "config.json").is_file():
        raise FileNotFoundError(f"init_from: '{speaker}' holds no {name}; give a speaker's folder")
    try:  # it may be a stranger's: by the same door as a pipeline's
        fine = root / FINE / "config.json"
        if isinstance(net, Renderer) and fine.is_file():
            name = FINE if read_json(inside(root, fine)).get("size") == net.config.size else name
        given = load_net(type(net), root, name)
    except Exception as error:  # as in load_parts
        raise damaged(root, error) from error
    weights = given.weights_for(net) if isinstance(given, Renderer) else given.state_dict()
    own = net.state_dict()
    other = [n for n in own if n not in weights or weights[n].shape != own[n].shape] + list(weights.keys() - own)
    if other:
        raise ValueError(
            f"init_from: the {name} of '{speaker}' is built otherwise than the one to train ({other[0]}); "
            f"give model.{attribute} the arguments of its config.json"
        )
    net.load_state_dict(weights)
    if module.conditioned and given.config.get("trained_on"):  # what was learnt once is known: training adds to it
        net.register_to_config(trained_on=list(given.config["trained_on"]))
