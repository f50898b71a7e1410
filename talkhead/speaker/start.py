"""How a training begins with a speaker's network."""

from __future__ import annotations

from pathlib import Path

from talkhead.modules.training_module import TrainingModule
from talkhead.nets.renderer import Renderer
from talkhead.speaker.folder import FINE
from talkhead.speaker.schema import read_json


def start_from(speaker: str | Path, module: TrainingModule) -> None:
    """Give a module the weights of a speaker's network instead of random ones.

    Of a speaker with two renderers it takes the one of the module's size, if there is one; a smaller one's weights are
    grown (`Renderer.weights_for`).

    Args:
        speaker: a pipeline's folder.
        module: about to be trained; its ``part`` says which network it has.

    Raises:
        FileNotFoundError: if the speaker holds no such network.
        ValueError: if its network is built otherwise.
    """
    attribute, folder = module.part
    net, path = getattr(module, attribute), Path(speaker) / folder
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"init_from: '{speaker}' holds no {folder}; give a speaker's folder")
    fine = Path(speaker) / FINE
    if isinstance(net, Renderer) and (fine / "config.json").is_file():
        path = fine if read_json(fine / "config.json").get("size") == net.config.size else path
    given = type(net).from_pretrained(path)
    weights = given.weights_for(net) if isinstance(given, Renderer) else given.state_dict()
    own = net.state_dict()
    other = [n for n in own if n not in weights or weights[n].shape != own[n].shape] + list(weights.keys() - own)
    if other:
        raise ValueError(
            f"init_from: the {path.name} of '{speaker}' is built otherwise than the one to train ({other[0]}); "
            f"give model.{attribute} the arguments of its config.json"
        )
    net.load_state_dict(weights)
